/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of an image, and when it may be used again.
 */
#define _GNU_SOURCE
#include "fp_acl_internal.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Vector code reads up to 64 bytes past a rule's arrays. */
#define FP_POOL_SIZE ((size_t)FP_ACL_MAX_UNITS * FP_ACL_UNIT + 4096)
#define FP_TREES_SIZE (FP_ACL_MAX_TREES * sizeof(struct fp_acl_tree))
#define FP_REMAINS 1024u

/* Address space; memory comes with the first touch. */
static void *fp_reserve(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

struct fp_acl_image *fp_acl_new_image(uint32_t capacity)
{
    struct fp_acl_image *image = calloc(1, sizeof *image);

    if (!image)
        return NULL;
    image->capacity = capacity;
    image->pool = fp_reserve(FP_POOL_SIZE);
    image->trees = fp_reserve(FP_TREES_SIZE);
    image->valid = fp_reserve(capacity * sizeof *image->valid);
    image->last = fp_reserve(capacity);
    image->remains_size = FP_REMAINS;
    image->remains = malloc(FP_REMAINS * sizeof *image->remains);
    if (!image->pool || !image->trees || !image->valid || !image->last || !image->remains) {
        fp_acl_free_image(image);
        return NULL;
    }
    fp_acl_forget(image);
    return image;
}

void fp_acl_free_image(struct fp_acl_image *image)
{
    if (!image)
        return;
    if (image->pool)
        munmap(image->pool, FP_POOL_SIZE);
    if (image->trees)
        munmap(image->trees, FP_TREES_SIZE);
    if (image->valid)
        munmap(image->valid, image->capacity * sizeof *image->valid);
    if (image->last)
        munmap(image->last, image->capacity);
    free(image->remains);
    free(image);
}

void fp_acl_forget(struct fp_acl_image *image)
{
    image->top = 1; /* unit 0 is none */
    image->tree_count = 0;
    image->copies = 0;
}

uint32_t fp_acl_units_of(uint32_t reference)
{
    uint32_t words = FP_ACL_WORDS_PER_RULE + ((reference & FP_ACL_LEAF_CONDITIONS) != 0);

    return (fp_acl_leaf_size(reference) * words * 4 + FP_ACL_UNIT - 1) / FP_ACL_UNIT;
}

uint32_t fp_acl_take(struct fp_acl_image *image, size_t bytes)
{
    uint32_t units = (uint32_t)((bytes + FP_ACL_UNIT - 1) / FP_ACL_UNIT);
    uint32_t unit = units < FP_ACL_SIZES ? image->free_head[units] : 0;

    if (unit) {
        image->free_head[units] = image->pool[(size_t)unit * (FP_ACL_UNIT / 4)];
        image->free_units -= units;
        return unit;
    }
    if (units > FP_ACL_MAX_UNITS - image->top)
        return 0;
    unit = image->top;
    image->top += units;
    return unit;
}

static void fp_put(struct fp_acl_image *image, uint32_t unit, uint32_t units)
{
    if (units >= FP_ACL_SIZES)
        return; /* nothing of that size is ever given back */
    image->pool[(size_t)unit * (FP_ACL_UNIT / 4)] = image->free_head[units];
    image->free_head[units] = unit;
    image->free_units += units;
}

static int fp_grow(struct fp_acl_image *image)
{
    struct fp_acl_remains *remains = malloc(2 * (size_t)image->remains_size * sizeof *remains);

    if (!remains)
        return 0;
    for (uint32_t i = 0; i < image->remains_count; i++)
        remains[i] = image->remains[(image->remains_first + i) & (image->remains_size - 1)];
    free(image->remains);
    image->remains = remains;
    image->remains_first = 0;
    image->remains_size *= 2;
    return 1;
}

/* Give back a block that new lookups will not find. */
void fp_acl_release(struct fp_acl *acl, uint32_t unit, uint32_t units)
{
    struct fp_acl_image *image = acl->image;
    struct fp_acl_remains *last;

    if (image->remains_count == image->remains_size && !fp_grow(image))
        return; /* until the next compilation it is lost */
    last = &image->remains[(image->remains_first + image->remains_count++) & (image->remains_size - 1)];
    last->unit = unit;
    last->units = units;
    last->epoch = __atomic_fetch_add(&acl->epoch, 1, __ATOMIC_SEQ_CST);
    if (image->remains_count >= FP_REMAINS / 4 && image->remains_count % 64 == 0)
        fp_acl_reclaim(acl);
}

/* Return the first epoch in which a lookup has begun and not ended; the present one if there is none. */
static uint64_t fp_oldest(struct fp_acl *acl)
{
    uint64_t oldest = __atomic_load_n(&acl->epoch, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < FP_ACL_MAX_READERS; i++) {
        uint64_t epoch = __atomic_load_n(&acl->readers[i].epoch, __ATOMIC_SEQ_CST);

        if (epoch && epoch < oldest)
            oldest = epoch;
    }
    return oldest;
}

void fp_acl_reclaim(struct fp_acl *acl)
{
    struct fp_acl_image *image = acl->image;
    uint64_t oldest = fp_oldest(acl);

    while (image->remains_count) {
        struct fp_acl_remains *first = &image->remains[image->remains_first];

        if (first->epoch >= oldest)
            break;
        fp_put(image, first->unit, first->units);
        image->remains_first = (image->remains_first + 1) & (image->remains_size - 1);
        image->remains_count--;
    }
}

void fp_acl_wait(struct fp_acl *acl)
{
    uint64_t now = __atomic_fetch_add(&acl->epoch, 1, __ATOMIC_SEQ_CST);

    while (fp_oldest(acl) <= now)
        sched_yield();
}

uint64_t fp_acl_memory(const struct fp_acl_image *image)
{
    return sizeof *image + (uint64_t)(image->top - image->free_units) * FP_ACL_UNIT +
           image->tree_count * sizeof *image->trees + (uint64_t)image->highest * 3 +
           image->remains_size * sizeof *image->remains;
}
