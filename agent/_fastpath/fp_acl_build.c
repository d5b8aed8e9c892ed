/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules to a forest, in several ways, of which the cheapest is kept.
 */
#include "fp_acl_internal.h"

#include <stdlib.h>
#include <string.h>

#define NODE_WIDTH 8       /* bits, at most */
#define MAX_DEPTH 14
#define LEAF_OF_THE_REST 16 /* rules of a leaf where no cut helps; the others are kicked */
#define UNCUT_LEAF 24      /* so many rules may stay together where no cut helps */
#define WALKED_RULES 4096u

/* What one step of a lookup costs, in about the same unit: measured, with the image in the second cache. */
#define TREE_COST 6.0
#define LEVEL_COST 8.0
#define LEAF_COST 20.0
#define REST_COST 10.0     /* of each eight rules of a leaf after the first */

static uint32_t fp_build_leaf(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count)
{
    uint32_t reference = fp_acl_new_leaf(builder->image, builder->items, list, count);

    builder->copies += count;
    builder->failed |= !reference || builder->image->top > builder->unit_limit;
    return reference;
}

/* Make a leaf of rules that no cut sets apart. */
static uint32_t fp_give_up(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count, uint32_t at_most)
{
    uint32_t keep = count <= at_most ? count : LEAF_OF_THE_REST;

    if (keep < count && !builder->kicked) {
        builder->failed = 1;
        return 0;
    }
    for (uint32_t i = keep; i < count; i++)
        builder->kicked[list[i]] = 1;
    return fp_build_leaf(builder, list, keep);
}

/* The rules of each child of a node. */
struct fp_children {
    uint32_t *start; /* by child, and one more: where its rules begin in "list" */
    uint32_t *list;
};

static int fp_distribute(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count,
                         const struct fp_acl_cut *cut, struct fp_children *children)
{
    uint32_t number = 1u << cut->width, total = 0, first, cover;
    uint32_t *next = calloc((size_t)number + 1, sizeof *next);

    children->start = malloc(((size_t)number + 1) * sizeof *children->start);
    children->list = NULL;
    if (!next || !children->start) {
        free(next);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        cover = fp_acl_cover(&builder->items[list[i]], cut, &first);
        if (builder->kicked && cover > builder->plan->kick) {
            builder->kicked[list[i]] = 1;
            continue;
        }
        for (uint32_t j = 0; j < cover; j++)
            next[(first + j) & (number - 1)]++;
    }
    for (uint32_t i = 0; i <= number; i++) {
        uint32_t size = next[i];

        children->start[i] = next[i] = total;
        total += size;
    }
    children->list = malloc(((size_t)total + 1) * sizeof *children->list);
    for (uint32_t i = 0; children->list && i < count; i++) {
        cover = fp_acl_cover(&builder->items[list[i]], cut, &first);
        if (builder->kicked && cover > builder->plan->kick)
            continue;
        for (uint32_t j = 0; j < cover; j++)
            children->list[next[(first + j) & (number - 1)]++] = list[i];
    }
    free(next);
    return children->list != NULL;
}

/* Leaves of one node with the same rules are one leaf. */
struct fp_twins {
    uint32_t hash[64];
    uint32_t *first[64]; /* the first reference to the leaf */
    const uint32_t *list[64];
};

static void fp_leaf_or_twin(struct fp_acl_builder *builder, struct fp_twins *twins, const uint32_t *list,
                            uint32_t count, uint32_t *reference)
{
    uint32_t hash = 2166136261u, slot;

    for (uint32_t i = 0; i < count; i++)
        hash = (hash ^ list[i]) * 16777619u;
    slot = hash >> 26;
    if (twins->list[slot] && twins->hash[slot] == hash && fp_acl_leaf_size(*twins->first[slot]) == count &&
        !memcmp(twins->list[slot], list, count * sizeof *list)) {
        *reference = *twins->first[slot] |= FP_ACL_LEAF_TWIN;
        return;
    }
    twins->hash[slot] = hash;
    twins->list[slot] = list;
    twins->first[slot] = reference;
    *reference = fp_build_leaf(builder, list, count);
}

/* Cut, and build the children, into the references at the unit returned; 0 if it fails. */
static uint32_t fp_build_children(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count,
                                  const struct fp_acl_cut *cut, uint32_t depth)
{
    uint32_t unit = fp_acl_take(builder->image, sizeof(uint32_t) << cut->width);
    struct fp_children children = {NULL, NULL};
    struct fp_twins twins = {.list = {NULL}};

    builder->failed |= !unit || !fp_distribute(builder, list, count, cut, &children);
    for (uint32_t i = 0; i < 1u << cut->width && !builder->failed; i++) {
        const uint32_t *rules = children.list + children.start[i];
        uint32_t size = children.start[i + 1] - children.start[i];
        uint32_t *reference = &builder->image->pool[(size_t)unit * (FP_ACL_UNIT / 4) + i];

        if (!size)
            *reference = FP_ACL_LEAF;
        else if (size <= builder->plan->leaf)
            fp_leaf_or_twin(builder, &twins, rules, size, reference);
        else
            *reference = fp_acl_build_node(builder, rules, size, depth + 1);
    }
    free(children.start);
    free(children.list);
    return builder->failed ? 0 : unit;
}

/* Return the reference of a leaf, or of a node with all that is below; 0 if it fails. */
uint32_t fp_acl_build_node(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count, uint32_t depth)
{
    struct fp_acl_cut cut;
    uint32_t unit;

    if (count <= builder->plan->leaf)
        return fp_build_leaf(builder, list, count);
    if (depth >= MAX_DEPTH || !fp_acl_choose(builder, list, count, NODE_WIDTH, &cut))
        return fp_give_up(builder, list, count, UNCUT_LEAF);
    unit = fp_build_children(builder, list, count, &cut, depth);
    return unit ? unit << 12 | (cut.width - 1) << 9 | cut.shift << 4 | cut.word : 0;
}

/* Build one tree of the rules in "list". */
static void fp_build_tree(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count,
                          struct fp_acl_tree *tree)
{
    struct fp_acl_cut cut = {0, 0, 0};
    uint32_t reference;

    memset(tree, 0, sizeof *tree);
    if (count > LEAF_OF_THE_REST && fp_acl_choose(builder, list, count, builder->plan->root_width, &cut)) {
        tree->unit = fp_build_children(builder, list, count, &cut, 0);
    } else {
        reference = fp_give_up(builder, list, count, LEAF_OF_THE_REST);
        tree->unit = fp_acl_take(builder->image, sizeof reference);
        builder->failed |= !reference || !tree->unit;
        if (!builder->failed)
            builder->image->pool[(size_t)tree->unit * (FP_ACL_UNIT / 4)] = reference;
    }
    tree->mask = (1u << cut.width) - 1;
    tree->word = (uint8_t)cut.word;
    tree->shift = (uint8_t)cut.shift;
}

/* Move the kicked ones of "list" to "kicked"; return how many stay. */
static uint32_t fp_split_list(struct fp_acl_builder *builder, uint32_t *list, uint32_t count, uint32_t *kicked,
                              uint32_t *kicked_count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (builder->kicked[list[i]])
            kicked[(*kicked_count)++] = list[i];
        else
            list[kept++] = list[i];
    }
    return kept;
}

static int fp_by_number(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* Build trees until all rules of "list" are in one; "kicked" has room for as many. */
static void fp_build_trees(struct fp_acl_builder *builder, uint32_t *list, uint32_t count, uint32_t *kicked)
{
    struct fp_acl_image *image = builder->image;

    while (count && !builder->failed) {
        uint32_t top = image->top, copies = builder->copies, rest = 0, kept;
        struct fp_acl_tree *tree = &image->trees[image->tree_count];

        if (image->tree_count == FP_ACL_MAX_TREES) {
            builder->failed = 1;
            break;
        }
        for (uint32_t i = 0; i < count; i++)
            builder->kicked[list[i]] = 0;
        fp_build_tree(builder, list, count, tree);
        kept = fp_split_list(builder, list, count, kicked, &rest);
        if (rest && kept && kept > LEAF_OF_THE_REST && !builder->failed) {
            /* Once more without them: some of their copies are in the tree. */
            image->top = top;
            builder->copies = copies;
            fp_build_tree(builder, list, kept, tree);
            kept = fp_split_list(builder, list, kept, kicked, &rest);
        }
        builder->failed |= !kept;
        if (builder->failed)
            break;
        tree->max_priority = builder->items[list[0]].priority;
        image->tree_count++;
        qsort(kicked, rest, sizeof *kicked, fp_by_number);
        memcpy(list, kicked, rest * sizeof *list);
        count = rest;
    }
}

/* Say what the lookup of a key at one corner of each of some rules costs. */
static double fp_walk_cost(struct fp_acl_image *image, const struct fp_acl_item *items, uint32_t count)
{
    uint32_t step = count > WALKED_RULES ? count / WALKED_RULES : 1, walked = 0;
    double trees = 0, rests = 0;

    image->levels = image->leaves = 0;
    for (uint32_t r = 0; r < count; r += step, walked++) {
        const uint32_t *key = r & 1 ? items[r].low : items[r].high;

        for (uint32_t t = 0; t < image->tree_count; t++) {
            const struct fp_acl_tree *tree = &image->trees[t];
            uint32_t reference;

            if (tree->max_priority < items[r].priority)
                continue;
            trees++;
            reference = image->pool[(size_t)tree->unit * (FP_ACL_UNIT / 4) +
                                    (key[tree->word] >> tree->shift & tree->mask)];
            for (; !fp_acl_is_leaf(reference); image->levels++)
                reference = fp_acl_at(image->pool, reference)[fp_acl_index(reference, key[reference & 15])];
            image->leaves += reference != FP_ACL_LEAF;
            rests += fp_acl_leaf_size(reference) > 8 ? (fp_acl_leaf_size(reference) - 1) / 8 : 0;
        }
    }
    image->levels /= walked;
    image->leaves /= walked;
    return TREE_COST * trees / walked + LEVEL_COST * image->levels + LEAF_COST * image->leaves +
           REST_COST * rests / walked;
}

static const struct fp_acl_plan fp_small_plans[] = {
    {256, 8, 12, 1, 1}, {256, 16, 12, 8, 0.3}, {64, 8, 14, 16, 0.2}, {64, 8, 12, 8, 0.5},
    {32, 16, 14, 8, 0.3}, {16, 8, 12, 2, 1}, {8, 8, 14, 8, 0.5}, {4, 8, 12, 1, 1},
};
static const struct fp_acl_plan fp_large_plans[] = {{16, 16, 16, 1, 1}, {4, 8, 16, 1, 1}};

/* For sets that change: a rule is in few leaves, so that it can be put there one by one. */
static const struct fp_acl_plan fp_lean_plans[] = {{4, 8, 12, 1, 1}};

#define LARGE 20000u /* rules from which on not every way is tried */
#define GOAL_UNITS(count) (((count) * 27ull + (1u << 19)) / FP_ACL_UNIT) /* 5 bytes of the 32 are elsewhere */

static void fp_build_by(struct fp_acl_builder *builder, const struct fp_acl_plan *plan, uint32_t *list,
                        uint32_t count, uint32_t top)
{
    fp_acl_forget(builder->image);
    builder->image->top = top;
    builder->plan = plan;
    builder->copies = 0;
    builder->failed = 0;
    for (uint32_t i = 0; i < count; i++)
        list[i] = i;
    fp_build_trees(builder, list, count, list + count);
}

struct fp_plans {
    const struct fp_acl_plan *plan;
    size_t count;
};

static struct fp_plans fp_plans_for(uint32_t count, int lean)
{
    if (lean)
        return (struct fp_plans){fp_lean_plans, sizeof fp_lean_plans / sizeof *fp_lean_plans};
    if (count < LARGE)
        return (struct fp_plans){fp_small_plans, sizeof fp_small_plans / sizeof *fp_small_plans};
    return (struct fp_plans){fp_large_plans, sizeof fp_large_plans / sizeof *fp_large_plans};
}

/* Try all plans; build by the best. */
static enum fp_acl_error fp_build_best(struct fp_acl_builder *builder, uint32_t *list, uint32_t count, int lean)
{
    struct fp_plans plans = fp_plans_for(count, lean);
    const struct fp_acl_plan *best = NULL;
    uint32_t top = builder->image->top;
    double best_cost = 0;

    builder->unit_limit = top + (uint32_t)GOAL_UNITS(count);
    for (size_t i = 0; i < plans.count; i++) {
        double cost;

        fp_build_by(builder, &plans.plan[i], list, count, top);
        if (builder->failed)
            continue;
        cost = fp_walk_cost(builder->image, builder->items, count);
        if (!best || cost < best_cost) {
            best = &plans.plan[i];
            best_cost = cost;
        }
    }
    if (!best) {
        builder->unit_limit = FP_ACL_MAX_UNITS; /* rules that are mostly conditions, or cannot be cut */
        best = fp_lean_plans;
    }
    if (builder->plan != best || builder->failed || builder->unit_limit == FP_ACL_MAX_UNITS) {
        fp_build_by(builder, best, list, count, top);
        if (builder->failed)
            return FP_ACL_TOO_MANY_RULES;
        fp_walk_cost(builder->image, builder->items, count);
    }
    return FP_ACL_OK;
}

enum fp_acl_error fp_acl_build(struct fp_acl_image *image, const struct fp_acl_item *items, uint32_t count,
                               int lean)
{
    struct fp_acl_builder *builder = malloc(sizeof *builder);
    uint32_t *list = malloc((2 * (size_t)count + 1) * sizeof *list);
    uint8_t *kicked = malloc((size_t)count + 1);
    enum fp_acl_error error = FP_ACL_NO_MEMORY;

    if (builder && list && kicked) {
        builder->image = image;
        builder->items = items;
        builder->kicked = kicked;
        error = count ? fp_build_best(builder, list, count, lean) : FP_ACL_OK;
        image->copies = count ? builder->copies : 0;
        image->compiled_trees = image->tree_count;
        image->compiled_top = image->top;
    }
    free(builder);
    free(list);
    free(kicked);
    return error;
}
