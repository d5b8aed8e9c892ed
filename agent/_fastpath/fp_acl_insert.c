/* SPDX-License-Identifier: Apache-2.0
 *
 * One more rule in a forest that is being read: leaves are replaced, never changed.
 */
#include "fp_acl_internal.h"

#include <string.h>

#define FOOTPRINT_MAX 32u /* leaves that one rule may be put into */
#define SEARCHED_MAX 1024u /* references of a node that is searched for the last one to a leaf */
#define LEAF_SPLIT 16u    /* rules; one more and a cut is looked for */
#define SPLIT_WIDTH 4     /* bits, at most, of that cut */

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

/* Which items lie in each child of a cut. */
struct fp_shares {
    uint32_t list[1 << SPLIT_WIDTH][FP_ACL_LEAF_MAX + 1];
    uint32_t count[1 << SPLIT_WIDTH];
};

/* Return whether the cut sets the items apart without many copies. */
static int fp_share_out(const struct fp_acl_item *items, uint32_t count, const struct fp_acl_cut *cut,
                        struct fp_shares *shares)
{
    uint32_t children = 1u << cut->width, copies = 0, largest = 0;

    memset(shares->count, 0, sizeof shares->count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t first, cover = fp_acl_cover(&items[i], cut, &first);

        copies += cover;
        for (uint32_t j = 0; j < cover; j++) {
            uint32_t child = (first + j) & (children - 1);

            shares->list[child][shares->count[child]++] = i;
            largest = shares->count[child] > largest ? shares->count[child] : largest;
        }
    }
    return copies <= count + count / 2 && largest <= count - count / 4;
}

/* Return the reference of a node with one level of leaves, 0 if no cut is good or there is no room. */
static uint32_t fp_split(struct fp_acl *acl, const struct fp_acl_item *items, const uint32_t *list, uint32_t count)
{
    struct fp_acl_builder *builder = acl->builder;
    struct fp_acl_cut cut = {0, 0, 0};
    struct fp_shares shares;
    uint32_t unit;

    builder->items = items;
    builder->plan = &fp_split_plan;
    builder->kicked = NULL;
    if (!fp_acl_choose(builder, list, count, SPLIT_WIDTH, &cut) || !fp_share_out(items, count, &cut, &shares))
        return 0;
    unit = fp_acl_take(acl->image, sizeof(uint32_t) << cut.width);
    for (uint32_t i = 0; unit && i < 1u << cut.width; i++) {
        uint32_t leaf = fp_acl_new_leaf(acl->image, items, shares.list[i], shares.count[i]);

        acl->image->pool[(size_t)unit * (FP_ACL_UNIT / 4) + i] = leaf;
        unit = leaf ? unit : 0;
    }
    return unit ? unit << 12 | (cut.width - 1) << 9 | cut.shift << 4 | cut.word : 0;
}

/* Return the reference of what replaces a leaf, 0 if there is no room. */
static uint32_t fp_replacement(struct fp_acl *acl, uint32_t reference, const struct fp_acl_item *item)
{
    struct fp_acl_item items[FP_ACL_LEAF_MAX + 1];
    uint32_t list[FP_ACL_LEAF_MAX + 1];
    uint32_t count = fp_merge(acl->image, reference, item, items), replacement = 0;

    for (uint32_t i = 0; i < count; i++)
        list[i] = i;
    if (count > LEAF_SPLIT)
        replacement = fp_split(acl, items, list, count);
    if (!replacement && count <= FP_ACL_LEAF_MAX)
        replacement = fp_acl_new_leaf(acl->image, items, list, count);
    return replacement;
}

/* Say whether a node, if it is not too large to look, has no reference to a leaf any longer. */
static int fp_is_unused(const struct fp_span *span, uint32_t reference)
{
    uint32_t found = span->mask >= SEARCHED_MAX;

    for (uint32_t i = 0; i <= span->mask && !found; i++)
        found = span->references[i] == reference;
    return !found;
}

/* Replace all references of a span to one leaf, the first of which is at "first". */
static int fp_replace(struct fp_acl *acl, const struct fp_span *span, uint32_t first, const struct fp_acl_item *item)
{
    uint32_t reference = span->references[(span->first + first) & span->mask];
    uint32_t twin = reference & FP_ACL_LEAF_TWIN, replacement = fp_replacement(acl, reference, item);
    /* A subtree has one reference, so that it can be changed. */
    uint32_t end = twin && fp_acl_is_leaf(replacement) ? span->count : first + 1;

    if (!replacement)
        return 0;
    if (end > first + 1)
        replacement |= FP_ACL_LEAF_TWIN;
    for (uint32_t i = first; i < end; i++) {
        uint32_t *place = &span->references[(span->first + i) & span->mask];

        if (*place == reference)
            __atomic_store_n(place, replacement, __ATOMIC_RELEASE);
    }
    if (reference != FP_ACL_LEAF && (!twin || fp_is_unused(span, reference)))
        fp_acl_release(acl, reference >> 12, fp_acl_units_of(reference));
    return 1;
}

/* Put an item into all leaves behind a span; return 0 if there is no room. */
static int fp_put_into(struct fp_acl *acl, const struct fp_span *span, const struct fp_acl_item *item)
{
    uint32_t twins[FOOTPRINT_MAX], count = 0; /* those that were put in for an earlier reference */

    for (uint32_t i = 0; i < span->count; i++) {
        uint32_t reference = span->references[(span->first + i) & span->mask], seen = 0;

        if (!fp_acl_is_leaf(reference)) {
            struct fp_span below = fp_span_of_node(acl->image, reference, item);

            if (!fp_put_into(acl, &below, item))
                return 0;
            continue;
        }
        for (uint32_t j = 0; j < count; j++)
            seen |= twins[j] == reference;
        if (seen)
            continue;
        if (!fp_replace(acl, span, i, item))
            return 0;
        reference = span->references[(span->first + i) & span->mask];
        if (fp_acl_is_leaf(reference) && reference & FP_ACL_LEAF_TWIN)
            twins[count++] = reference;
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

/* Return the tree in which the item takes the fewest leaves, the number of trees if it is too many in all. */
static uint32_t fp_best_tree(const struct fp_acl_image *image, const struct fp_acl_item *item)
{
    uint32_t best = image->tree_count, fewest = FOOTPRINT_MAX + 1;

    for (uint32_t t = 0; t < image->tree_count && fewest > 1; t++) {
        struct fp_span span = fp_span_of_root(image, &image->trees[t], item);
        uint32_t leaves = fp_footprint(image, &span, item);

        if (leaves < fewest) {
            fewest = leaves;
            best = t;
        }
    }
    return best;
}

/* Put an item, whose generation is not valid yet, where lookups will find it.
 * Return 0 if there is no room; then copies may be left that never count. */
int fp_acl_place(struct fp_acl *acl, const struct fp_acl_item *item)
{
    struct fp_acl_image *image = acl->image;
    uint32_t t = fp_best_tree(image, item);
    struct fp_acl_tree *tree = &image->trees[t];
    struct fp_span span;

    image->added += t >= image->compiled_trees;
    if (t == image->tree_count)
        return fp_new_tree(acl, item);
    if (tree->max_priority < item->priority)
        __atomic_store_n(&tree->max_priority, item->priority, __ATOMIC_RELEASE);
    span = fp_span_of_root(image, tree, item);
    return fp_put_into(acl, &span, item);
}
