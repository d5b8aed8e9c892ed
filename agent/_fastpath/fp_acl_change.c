/* SPDX-License-Identifier: Apache-2.0
 *
 * Sets of rules, and changes of single ones.  One caller at a time.
 */
#include "fp_acl_internal.h"

#include <stdlib.h>
#include <string.h>

#define GENERATION_MAX 255u
#define FIRST_GENERATION 1u
#define PENDING_MAX 256u /* modifications that wait for readers together */

static uint32_t fp_name(uint32_t id, uint32_t generation)
{
    return ~(id << 8 | generation);
}

static void fp_set_valid(struct fp_acl_image *image, uint32_t id, uint32_t generations)
{
    __atomic_store_n(&image->valid[id], (uint16_t)generations, __ATOMIC_RELEASE);
}

/* Let lookups that begin now ask for generations.  Those that go on without are of
 * before this change: they find the old rule, or the new one, or both. */
static void fp_alter(struct fp_acl_image *image)
{
    __atomic_store_n(&image->altered, 1, __ATOMIC_SEQ_CST);
}

/* Give an item its conditions' memory in the image; 0 if there is no room. */
static int fp_store_conditions(struct fp_acl_image *image, struct fp_acl_item *item,
                               const struct fp_acl_conditions *rest)
{
    item->conditions = fp_acl_take(image, sizeof *rest);
    if (!item->conditions)
        return 0;
    memcpy(image->pool + (size_t)item->conditions * (FP_ACL_UNIT / 4), rest, sizeof *rest);
    return 1;
}

static void fp_register(struct fp_acl_image *image, uint32_t id)
{
    image->valid[id] = FIRST_GENERATION;
    image->last[id] = FIRST_GENERATION;
    image->rules++;
    if (id >= image->highest)
        image->highest = id + 1;
}

/* Let readers use another image, and free the old one when none does any longer. */
static void fp_swap(struct fp_acl *acl, struct fp_acl_image *image)
{
    struct fp_acl_image *old = acl->image;

    __atomic_store_n(&acl->image, image, __ATOMIC_SEQ_CST);
    fp_acl_wait(acl);
    fp_acl_free_image(old);
    acl->compilations++;
}

static enum fp_acl_error fp_build_and_swap(struct fp_acl *acl, struct fp_acl_image *image,
                                           const struct fp_acl_item *items, int lean)
{
    enum fp_acl_error error = fp_acl_build(image, items, image->rules, lean);

    if (error)
        fp_acl_free_image(image);
    else
        fp_swap(acl, image);
    return error;
}

/* A rule of a set by its rank. */
struct fp_order {
    uint64_t rank;
    size_t rule;
};

static int fp_by_rank(const void *left, const void *right)
{
    const struct fp_order *a = left, *b = right;

    return a->rank < b->rank ? 1 : a->rank > b->rank ? -1 : 0;
}

static enum fp_acl_error fp_check_set(const struct fp_acl *acl, const struct fp_acl_rule *rules, size_t count,
                                      struct fp_order *order, uint8_t *taken, size_t *bad)
{
    for (size_t i = 0; i < count; i++) {
        enum fp_acl_error error = fp_acl_check(&rules[i]);

        *bad = i;
        if (error)
            return error;
        if (rules[i].id >= acl->capacity)
            return FP_ACL_ID_TOO_LARGE;
        if (taken[rules[i].id >> 3] >> (rules[i].id & 7) & 1)
            return FP_ACL_ID_TAKEN;
        taken[rules[i].id >> 3] |= (uint8_t)(1u << (rules[i].id & 7));
        order[i].rank = (uint64_t)rules[i].priority << 32 | fp_name(rules[i].id, 0);
        order[i].rule = i;
    }
    qsort(order, count, sizeof *order, fp_by_rank);
    return FP_ACL_OK;
}

static enum fp_acl_error fp_compile(struct fp_acl *acl, const struct fp_acl_rule *rules, const struct fp_order *order,
                                    size_t count, struct fp_acl_item *items)
{
    struct fp_acl_image *image = fp_acl_new_image(acl->capacity);

    for (size_t i = 0; image && i < count; i++) {
        const struct fp_acl_rule *rule = &rules[order[i].rule];
        struct fp_acl_conditions rest;

        fp_acl_describe(rule, &items[i], &rest);
        items[i].name = fp_name(rule->id, FIRST_GENERATION);
        fp_register(image, rule->id);
        if (fp_acl_has_conditions(rule) && !fp_store_conditions(image, &items[i], &rest)) {
            fp_acl_free_image(image);
            image = NULL;
        }
    }
    return image ? fp_build_and_swap(acl, image, items, 0) : FP_ACL_NO_MEMORY;
}

enum fp_acl_error fp_acl_compile(struct fp_acl *acl, const struct fp_acl_rule *rules, size_t count, size_t *bad)
{
    struct fp_order *order = malloc((count + 1) * sizeof *order);
    struct fp_acl_item *items = malloc((count + 1) * sizeof *items);
    uint8_t *taken = calloc(acl->capacity / 8 + 1, 1);
    enum fp_acl_error error = FP_ACL_NO_MEMORY;

    *bad = count;
    if (order && items && taken)
        error = fp_check_set(acl, rules, count, order, taken, bad);
    if (!error && order && items) {
        *bad = count;
        error = fp_compile(acl, rules, order, count, items);
    }
    free(order);
    free(items);
    free(taken);
    return error;
}

/* Compile what is there anew: without dead copies, and with all in trees that were cut for it. */
enum fp_acl_error fp_acl_compile_again(struct fp_acl *acl)
{
    struct fp_acl_image *old = acl->image, *image = fp_acl_new_image(acl->capacity);
    struct fp_acl_item *items = fp_acl_collect(old);
    enum fp_acl_error error = FP_ACL_NO_MEMORY;
    uint32_t i = 0;

    for (; image && items && i < old->rules; i++) {
        uint32_t id = ~items[i].name >> 8, unit = items[i].conditions;

        items[i].name = fp_name(id, FIRST_GENERATION);
        fp_register(image, id);
        if (unit && !fp_store_conditions(image, &items[i], (const void *)(old->pool + (size_t)unit * (FP_ACL_UNIT / 4))))
            break;
    }
    if (image && items && i == old->rules)
        error = fp_build_and_swap(acl, image, items, 1);
    else
        fp_acl_free_image(image);
    free(items);
    return error;
}

/* Modifications of which readers may still see the old version. */
struct fp_pending {
    uint32_t id[PENDING_MAX];
    uint32_t count;
};

static void fp_settle(struct fp_acl *acl, struct fp_pending *pending)
{
    if (!pending->count)
        return;
    fp_acl_wait(acl);
    for (uint32_t i = 0; i < pending->count; i++)
        fp_set_valid(acl->image, pending->id[i], acl->image->valid[pending->id[i]] & 0xff);
    pending->count = 0;
}

/* Say whether the forest has become bad, or too large. */
static int fp_is_worn(const struct fp_acl_image *image)
{
    uint32_t used = image->top - image->free_units;

    return image->dead > image->rules / 2 + 4096 || image->added > image->rules / 16 + 64 ||
           used > image->compiled_top + image->compiled_top / 8 + 16384 || image->tree_count == FP_ACL_MAX_TREES;
}

static enum fp_acl_error fp_write(struct fp_acl *acl, const struct fp_acl_rule *rule, uint32_t *generation)
{
    struct fp_acl_conditions rest;
    struct fp_acl_item item;

    if (acl->image->last[rule->id] == GENERATION_MAX || fp_is_worn(acl->image))
        fp_acl_compile_again(acl); /* if it fails the old one goes on, as long as it can */
    if (acl->image->last[rule->id] == GENERATION_MAX)
        return FP_ACL_NO_MEMORY;
    *generation = ++acl->image->last[rule->id];
    fp_acl_describe(rule, &item, &rest);
    item.name = fp_name(rule->id, *generation);
    if (fp_acl_has_conditions(rule) && !fp_store_conditions(acl->image, &item, &rest))
        return FP_ACL_NO_MEMORY;
    if (fp_acl_place(acl, &item))
        return FP_ACL_OK;
    fp_alter(acl->image);
    return FP_ACL_NO_MEMORY;
}

static enum fp_acl_error fp_insert(struct fp_acl *acl, const struct fp_acl_rule *rule)
{
    uint32_t generation;
    enum fp_acl_error error = fp_write(acl, rule, &generation);

    if (error)
        return error;
    fp_set_valid(acl->image, rule->id, generation);
    acl->image->rules++;
    if (rule->id >= acl->image->highest)
        acl->image->highest = rule->id + 1;
    return FP_ACL_OK;
}

static enum fp_acl_error fp_modify(struct fp_acl *acl, const struct fp_acl_rule *rule, struct fp_pending *pending)
{
    uint32_t generation;
    enum fp_acl_error error;

    if (acl->image->valid[rule->id] >> 8 || pending->count == PENDING_MAX)
        fp_settle(acl, pending);
    if (acl->image->last[rule->id] == GENERATION_MAX || fp_is_worn(acl->image))
        fp_settle(acl, pending); /* before what is pending is compiled */
    fp_alter(acl->image);
    error = fp_write(acl, rule, &generation);
    fp_alter(acl->image); /* it may be another image now */
    if (error)
        return error;
    fp_set_valid(acl->image, rule->id, generation | (uint32_t)acl->image->valid[rule->id] << 8);
    pending->id[pending->count++] = rule->id;
    acl->image->dead++;
    return FP_ACL_OK;
}

static enum fp_acl_error fp_change(struct fp_acl *acl, const struct fp_acl_change *change, struct fp_pending *pending)
{
    const struct fp_acl_rule *rule = &change->rule;
    enum fp_acl_error error = change->verb == FP_ACL_DELETE ? FP_ACL_OK : fp_acl_check(rule);
    int known;

    if (change->verb < FP_ACL_INSERT || change->verb > FP_ACL_DELETE)
        return FP_ACL_BAD_VERB;
    if (error)
        return error;
    if (rule->id >= acl->capacity)
        return FP_ACL_ID_TOO_LARGE;
    known = acl->image->valid[rule->id] != 0;
    if (change->verb == FP_ACL_INSERT) {
        if (known)
            return FP_ACL_ID_TAKEN;
        if (acl->image->last[rule->id] == GENERATION_MAX || fp_is_worn(acl->image))
            fp_settle(acl, pending);
        return fp_insert(acl, rule);
    }
    if (!known)
        return FP_ACL_ID_UNKNOWN;
    if (change->verb == FP_ACL_MODIFY)
        return fp_modify(acl, rule, pending);
    fp_alter(acl->image);
    fp_set_valid(acl->image, rule->id, 0);
    acl->image->rules--;
    acl->image->dead++;
    return FP_ACL_OK;
}

size_t fp_acl_apply(struct fp_acl *acl, struct fp_acl_change *changes, size_t count)
{
    struct fp_pending pending = {.count = 0};
    size_t failed = 0;

    for (size_t i = 0; i < count; i++) {
        changes[i].result = fp_change(acl, &changes[i], &pending);
        failed += changes[i].result != FP_ACL_OK;
    }
    fp_settle(acl, &pending);
    return failed;
}
