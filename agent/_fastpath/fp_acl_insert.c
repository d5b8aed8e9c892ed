/* SPDX-License-Identifier: Apache-2.0
 *
 * One more rule in a forest that is being read: leaves are replaced, never changed.
 */
#include "fp_acl_internal.h"

#include <string.h>

#define FOOTPRINT_MAX 32u /* leaves that one rule may be put into */
#define LEAF_SPLIT 16u    /* rules; one more and a cut is looked for */

static const struct fp_acl_plan fp_split_plan = {FP_ACL_MAX_UNITS, 8, 8, 2, 1};

/* The references that an item lies behind, of a node or of a root. */
struct fp_span {
    uint32_t *references;
    uint32_t first;
    uint32_t count;
    uint32_t mask;
};

static struct fp_span fp_span_of_root(const struct fp_acl_image *image, const struct fp_acl_tree *tree,
                                      const struct fp_acl_item *item)
{
    struct fp_acl_cut cut = {tree->word, tree->shift, (uint32_t)__builtin_popcount(tree->mask)};
    struct fp_span span = {image->pool + (size_t)tree->unit * (FP_ACL_UNIT / 4), 0, 1, tree->mask};

    if (cut.width)
        span.count = fp_acl_cover(item, &cut, &span.first);
    return span;
}

static struct fp_span fp_span_of_node(const struct fp_acl_image *image, uint32_t reference,
                                      const struct fp_acl_item *item)
{
    struct fp_acl_cut cut = {reference & 15, reference >> 4 & 31, (reference >> 9 & 7) + 1};
    struct fp_span span = {image->pool + (size_t)(reference >> 12) * (FP_ACL_UNIT / 4), 0, 0, (1u << cut.width) - 1};

    span.count = fp_acl_cover(item, &cut, &span.first);
    return span;
}

/* Count the leaves behind a span, a full one for many; stop when there are too many. */
static uint32_t fp_footprint(const struct fp_acl_image *image, const struct fp_span *span,
                             const struct fp_acl_item *item)
{
    uint32_t leaves = span->count > FOOTPRINT_MAX ? span->count : 0;

    for (uint32_t i = 0; i < span->count && leaves <= FOOTPRINT_MAX; i++) {
        uint32_t reference = span->references[(span->first + i) & span->mask];

        if (fp_acl_is_leaf(reference)) {
            leaves += fp_acl_leaf_size(reference) < FP_ACL_LEAF_MAX ? 1 : FOOTPRINT_MAX + 1;
        } else {
            struct fp_span below = fp_span_of_node(image, reference, item);

            leaves += fp_footprint(image, &below, item);
        }
    }
    return leaves;
}

static int fp_is_higher(const struct fp_acl_item *left, const struct fp_acl_item *right)
{
    return left->priority > right->priority || (left->priority == right->priority && left->name > right->name);
}

/* Read the rules of a leaf that still count, with the new one among them. */
static uint32_t fp_merge(struct fp_acl_image *image, uint32_t reference, const struct fp_acl_item *item,
                         struct fp_acl_item *items)
{
    struct fp_acl_view view = {.pool = image->pool, .valid = image->valid};
    const uint32_t *leaf = fp_acl_at(image->pool, reference);
    uint32_t n = fp_acl_leaf_size(reference), count = 0, done = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (!fp_acl_is_valid(&view, leaf[6 * n + i])) {
            image->dead -= image->dead > 0;
            continue;
        }
        fp_acl_read_item(image, reference, i, &items[count]);
        if (!done && fp_is_higher(item, &items[count])) {
            items[count + 1] = items[count];
            items[count++] = *item;
            done = 1;
        }
        count++;
    }
    if (!done)
        items[count++] = *item;
    return count;
}

/* Return the reference of what replaces a leaf, 0 if there is no room. */
static uint32_t fp_replacement(struct fp_acl *acl, uint32_t reference, const struct fp_acl_item *item)
{
    struct fp_acl_item items[FP_ACL_LEAF_MAX + 1];
    uint32_t list[FP_ACL_LEAF_MAX + 1];
    uint32_t count = fp_merge(acl->image, reference, item, items), replacement = 0;
    struct fp_acl_builder *builder = acl->builder;

    for (uint32_t i = 0; i < count; i++)
        list[i] = i;
    if (count > LEAF_SPLIT) {
        builder->image = acl->image;
        builder->items = items;
        builder->plan = &fp_split_plan;
        builder->kicked = NULL;
        builder->unit_limit = FP_ACL_MAX_UNITS;
        builder->failed = 0;
        replacement = fp_acl_build_node(builder, list, count, 0);
        if (builder->failed)
            replacement = 0;
    }
    if (!replacement && count <= FP_ACL_LEAF_MAX)
        replacement = fp_acl_new_leaf(acl->image, items, list, count);
    return replacement;
}

/* Put an item into all leaves behind a span; return 0 if there is no room. */
static int fp_put_into(struct fp_acl *acl, const struct fp_span *span, const struct fp_acl_item *item)
{
    uint32_t twin = 0, twin_replacement = 0;

    for (uint32_t i = 0; i < span->count; i++) {
        uint32_t *place = &span->references[(span->first + i) & span->mask];
        uint32_t reference = *place, replacement;

        if (!fp_acl_is_leaf(reference)) {
            struct fp_span below = fp_span_of_node(acl->image, reference, item);

            if (!fp_put_into(acl, &below, item))
                return 0;
            continue;
        }
        replacement = reference == twin ? twin_replacement : fp_replacement(acl, reference, item);
        if (!replacement)
            return 0;
        if (reference & FP_ACL_LEAF_TWIN && !fp_acl_is_leaf(replacement)) {
            twin = 0; /* a subtree has one reference, so that it can be changed */
        } else if (reference & FP_ACL_LEAF_TWIN) {
            replacement |= FP_ACL_LEAF_TWIN;
            twin = reference;
            twin_replacement = replacement;
        }
        __atomic_store_n(place, replacement, __ATOMIC_RELEASE);
        /* A leaf with twins may have references that were not replaced. */
        if (reference != FP_ACL_LEAF && !(reference & FP_ACL_LEAF_TWIN))
            fp_acl_release(acl, reference >> 12, fp_acl_units_of(reference));
    }
    return 1;
}

static int fp_new_tree(struct fp_acl *acl, const struct fp_acl_item *item)
{
    struct fp_acl_image *image = acl->image;
    struct fp_acl_tree *tree = &image->trees[image->tree_count];
    uint32_t list[1] = {0}, reference;

    if (image->tree_count == FP_ACL_MAX_TREES)
        return 0;
    memset(tree, 0, sizeof *tree);
    reference = fp_acl_new_leaf(image, item, list, 1);
    tree->unit = fp_acl_take(image, sizeof reference);
    tree->max_priority = item->priority;
    if (!reference || !tree->unit)
        return 0;
    image->pool[(size_t)tree->unit * (FP_ACL_UNIT / 4)] = reference;
    __atomic_store_n(&image->tree_count, image->tree_count + 1, __ATOMIC_RELEASE);
    return 1;
}

/* Put an item, whose generation is not valid yet, where lookups will find it.
 * Return 0 if there is no room; then copies may be left that never count. */
int fp_acl_place(struct fp_acl *acl, const struct fp_acl_item *item)
{
    struct fp_acl_image *image = acl->image;

    for (uint32_t t = 0; t < image->tree_count; t++) {
        struct fp_acl_tree *tree = &image->trees[t];
        struct fp_span span = fp_span_of_root(image, tree, item);

        if (fp_footprint(image, &span, item) > FOOTPRINT_MAX)
            continue;
        if (tree->max_priority < item->priority)
            __atomic_store_n(&tree->max_priority, item->priority, __ATOMIC_RELEASE);
        image->added += t >= image->compiled_trees;
        return fp_put_into(acl, &span, item);
    }
    image->added++;
    return fp_new_tree(acl, item);
}
