/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the classifier know of each other and nobody else does; never in BPF.
 */
#ifndef FP_ACL_INTERNAL_H
#define FP_ACL_INTERNAL_H

#include "fp_acl_image.h"

/* A rule as the builder sees it: its box, and what a leaf will hold of it. */
struct fp_acl_item {
    uint32_t low[FP_ACL_WORDS]; /* inclusive, of each word of the key; of the protocol without the class */
    uint32_t high[FP_ACL_WORDS];
    uint32_t src;
    uint32_t dst;
    uint16_t ports[4];          /* first source, first destination, span of each */
    uint32_t meta;
    uint32_t priority;
    uint32_t name;
    uint32_t conditions;        /* unit, or 0 */
};

/* Memory that a reader may still read. */
struct fp_acl_remains {
    uint64_t epoch;
    uint32_t unit;
    uint32_t units;
};

#define FP_ACL_SIZES 64 /* blocks of less units are kept by size when they are free */

struct fp_acl_image {
    uint32_t *pool;
    struct fp_acl_tree *trees;
    uint16_t *valid;            /* see fp_acl_view */
    uint8_t *last;              /* the generation that was given out last; only writers look at it */
    uint32_t capacity;          /* of ids */
    uint32_t top;               /* units below it are or were in use */
    uint32_t tree_count;
    uint32_t compiled_trees;    /* those behind them were added by insertions */
    uint32_t rules;
    uint32_t highest;           /* one more than the highest id so far */
    uint32_t dead;              /* deleted since it was compiled */
    uint32_t altered;           /* there may be copies in leaves that do not count */
    uint32_t added;             /* rules in trees that insertions added */
    uint32_t copies;            /* when compiled */
    uint32_t compiled_top;
    uint32_t free_units;
    uint32_t free_head[FP_ACL_SIZES]; /* unit of the first free block of each size; the next stands in it */
    struct fp_acl_remains *remains;   /* a ring */
    uint32_t remains_first;
    uint32_t remains_count;
    uint32_t remains_size;      /* a power of two */
    double levels;
    double leaves;
};

/* How eagerly a forest is built. */
struct fp_acl_plan {
    uint32_t kick;       /* a rule with more copies by one cut goes into the next tree */
    uint32_t leaf;       /* rules; above it is cut */
    uint32_t root_width; /* at most */
    double spread;       /* references of a node for each of its rules, at most */
    double copy_price;   /* of doubling the rules by copies, in halvings of what is left to look at */
};

struct fp_acl_reader {
    uint64_t epoch; /* 0: not in a lookup */
    uint32_t open;
    uint8_t pad[52]; /* a cache line each */
};

struct fp_acl_builder;

struct fp_acl {
    struct fp_acl_reader readers[FP_ACL_MAX_READERS];
    uint64_t epoch; /* from 1; goes on with each block that was taken away */
    struct fp_acl_image *image;
    fp_acl_walk *walk;
    struct fp_acl_builder *builder; /* for leaves that grow too large */
    uint32_t capacity;
    uint32_t compilations;
};

/* fp_acl_rule.c */
void fp_acl_describe(const struct fp_acl_rule *rule, struct fp_acl_item *item, struct fp_acl_conditions *rest);
int fp_acl_has_conditions(const struct fp_acl_rule *rule);
void fp_acl_bound(struct fp_acl_item *item, const struct fp_acl_conditions *rest);

/* fp_acl_memory.c */
struct fp_acl_image *fp_acl_new_image(uint32_t capacity);
void fp_acl_free_image(struct fp_acl_image *image);
void fp_acl_forget(struct fp_acl_image *image);              /* all trees and leaves, not the tables by id */
uint32_t fp_acl_take(struct fp_acl_image *image, size_t bytes); /* a unit, 0: no room */
void fp_acl_release(struct fp_acl *acl, uint32_t unit, uint32_t units);
void fp_acl_reclaim(struct fp_acl *acl);
void fp_acl_wait(struct fp_acl *acl);                        /* for all lookups that have begun */
uint32_t fp_acl_units_of(uint32_t reference);
uint64_t fp_acl_memory(const struct fp_acl_image *image);

/* fp_acl_leaf.c */
uint32_t fp_acl_new_leaf(struct fp_acl_image *image, const struct fp_acl_item *items, const uint32_t *list,
                         uint32_t count);
void fp_acl_read_item(const struct fp_acl_image *image, uint32_t reference, uint32_t index, struct fp_acl_item *item);
struct fp_acl_item *fp_acl_collect(const struct fp_acl_image *image); /* all rules by falling rank; caller frees */

/* fp_acl_cut.c */
struct fp_acl_cut {
    uint32_t word;
    uint32_t shift;
    uint32_t width;
};

struct fp_acl_builder {
    struct fp_acl_image *image;
    const struct fp_acl_item *items; /* by falling rank */
    const struct fp_acl_plan *plan;
    uint8_t *kicked;                 /* by item; NULL: nothing may be kicked */
    uint32_t unit_limit;
    uint32_t copies;
    int failed;                      /* no room or no memory */
    uint32_t histogram[1 << 16];
};

int fp_acl_choose(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count, uint32_t max_width,
                  struct fp_acl_cut *cut);

/* Return in how many children of a cut an item lies, *first is the index of the first, before the mask. */
static inline uint32_t fp_acl_cover(const struct fp_acl_item *item, const struct fp_acl_cut *cut, uint32_t *first)
{
    uint32_t low = item->low[cut->word] >> cut->shift, span = (item->high[cut->word] >> cut->shift) - low;
    uint32_t all = 1u << cut->width;

    *first = span >= all - 1 ? 0 : low;
    return span >= all - 1 ? all : span + 1;
}

/* fp_acl_build.c */
uint32_t fp_acl_build_node(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count, uint32_t depth);
/* "lean": for many changes rather than for many lookups. */
enum fp_acl_error fp_acl_build(struct fp_acl_image *image, const struct fp_acl_item *items, uint32_t count, int lean);

/* fp_acl_insert.c */
int fp_acl_place(struct fp_acl *acl, const struct fp_acl_item *item);

/* fp_acl_change.c */
enum fp_acl_error fp_acl_compile_again(struct fp_acl *acl);

#endif /* FP_ACL_INTERNAL_H */
