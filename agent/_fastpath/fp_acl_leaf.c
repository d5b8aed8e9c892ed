/* SPDX-License-Identifier: Apache-2.0
 *
 * Leaves: written once, read back when a leaf is replaced or the forest compiled anew.
 */
#include "fp_acl_internal.h"

#include <stdlib.h>
#include <string.h>

static const struct fp_acl_conditions *fp_conditions(const struct fp_acl_image *image, uint32_t unit)
{
    return unit ? (const void *)(image->pool + (size_t)unit * (FP_ACL_UNIT / 4)) : NULL;
}

/* Return the reference of a new leaf with the items of "list" (of falling rank), 0 if there is no room. */
uint32_t fp_acl_new_leaf(struct fp_acl_image *image, const struct fp_acl_item *items, const uint32_t *list,
                         uint32_t count)
{
    uint32_t extended = 0, words, unit;
    uint32_t *leaf;
    uint16_t *ports;

    if (!count)
        return FP_ACL_LEAF;
    for (uint32_t i = 0; i < count; i++)
        extended |= items[list[i]].conditions;
    words = FP_ACL_WORDS_PER_RULE + (extended != 0);
    unit = fp_acl_take(image, (size_t)count * words * 4);
    if (!unit)
        return 0;
    leaf = image->pool + (size_t)unit * (FP_ACL_UNIT / 4);
    ports = (uint16_t *)(leaf + 2 * count);
    for (uint32_t i = 0; i < count; i++) {
        const struct fp_acl_item *item = &items[list[i]];

        leaf[i] = item->src;
        leaf[count + i] = item->dst;
        for (uint32_t j = 0; j < 4; j++)
            ports[j * count + i] = item->ports[j];
        leaf[4 * count + i] = item->meta;
        leaf[5 * count + i] = item->priority;
        leaf[6 * count + i] = item->name;
        if (extended)
            leaf[7 * count + i] = item->conditions;
    }
    return unit << 12 | (extended ? FP_ACL_LEAF_CONDITIONS : 0) | count << 4 | FP_ACL_LEAF;
}

void fp_acl_read_item(const struct fp_acl_image *image, uint32_t reference, uint32_t index, struct fp_acl_item *item)
{
    const uint32_t *leaf = fp_acl_at(image->pool, reference);
    uint32_t count = fp_acl_leaf_size(reference);
    const uint16_t *ports = (const uint16_t *)(leaf + 2 * count);

    item->src = leaf[index];
    item->dst = leaf[count + index];
    for (uint32_t j = 0; j < 4; j++)
        item->ports[j] = ports[j * count + index];
    item->meta = leaf[4 * count + index];
    item->priority = leaf[5 * count + index];
    item->name = leaf[6 * count + index];
    item->conditions = reference & FP_ACL_LEAF_CONDITIONS ? leaf[7 * count + index] : 0;
    fp_acl_bound(item, fp_conditions(image, item->conditions));
}

static int fp_by_rank(const void *left, const void *right)
{
    const struct fp_acl_item *a = left, *b = right;

    if (a->priority != b->priority)
        return a->priority < b->priority ? 1 : -1;
    return a->name < b->name ? 1 : a->name > b->name ? -1 : 0;
}

/* What a collection has so far. */
struct fp_collection {
    const struct fp_acl_image *image;
    struct fp_acl_item *items;
    uint8_t *seen; /* by id */
    uint32_t count;
};

static void fp_collect(struct fp_collection *all, uint32_t reference)
{
    const uint32_t *at = fp_acl_at(all->image->pool, reference);
    uint32_t count = fp_acl_leaf_size(reference);

    if (!fp_acl_is_leaf(reference)) {
        for (uint32_t i = 0; i < 2u << (reference >> 9 & 7); i++)
            if (at[i] != FP_ACL_LEAF)
                fp_collect(all, at[i]);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t name = at[6 * count + i], id = ~name >> 8;

        /* No modification is under way: the only valid generation is the low one. */
        if ((all->image->valid[id] & 0xff) != (~name & 0xff) || all->seen[id])
            continue;
        all->seen[id] = 1;
        fp_acl_read_item(all->image, reference, i, &all->items[all->count++]);
    }
}

struct fp_acl_item *fp_acl_collect(const struct fp_acl_image *image)
{
    struct fp_collection all = {.image = image};

    all.items = malloc(((size_t)image->rules + 1) * sizeof *all.items);
    all.seen = calloc((size_t)image->highest + 1, 1);
    for (uint32_t t = 0; all.items && all.seen && t < image->tree_count; t++)
        for (uint32_t i = 0; i <= image->trees[t].mask; i++)
            fp_collect(&all, image->pool[(size_t)image->trees[t].unit * (FP_ACL_UNIT / 4) + i]);
    if (!all.seen) {
        free(all.items);
        return NULL;
    }
    free(all.seen);
    if (all.items)
        qsort(all.items, all.count, sizeof *all.items, fp_by_rank);
    return all.items;
}
