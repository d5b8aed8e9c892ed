/* SPDX-License-Identifier: Apache-2.0
 *
 * The classifier as its users see it: life, readers, lookups.
 */
#include "fp_acl_internal.h"

#include <stdlib.h>
#include <string.h>

/* After so many keys a lookup of many lets go of old memory and looks for a new image. */
#define FP_ACL_ROUND 1024
#define PREFETCH_FROM (256u * 1024 / FP_ACL_UNIT) /* units */

struct fp_acl *fp_acl_new(uint32_t capacity)
{
    struct fp_acl *acl;

    if (capacity > FP_ACL_MAX_ID + 1)
        return NULL;
    acl = aligned_alloc(64, (sizeof *acl + 63) / 64 * 64);
    if (!acl)
        return NULL;
    memset(acl, 0, sizeof *acl);
    acl->epoch = 1;
    acl->capacity = capacity ? capacity : 1;
    acl->image = fp_acl_new_image(acl->capacity);
    acl->builder = malloc(sizeof *acl->builder);
    fp_acl_use(acl, FP_ACL_BEST);
    if (!acl->image || !acl->builder) {
        fp_acl_free(acl);
        return NULL;
    }
    return acl;
}

void fp_acl_free(struct fp_acl *acl)
{
    if (!acl)
        return;
    fp_acl_free_image(acl->image);
    free(acl->builder);
    free(acl);
}

enum fp_acl_simd fp_acl_use(struct fp_acl *acl, enum fp_acl_simd simd)
{
    fp_acl_walk *walk = fp_acl_walk_scalar;
    enum fp_acl_simd used = FP_ACL_SCALAR;

#ifdef __x86_64__
    if (simd == FP_ACL_BEST || simd >= FP_ACL_AVX2) {
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")) {
            walk = fp_acl_walk_avx2;
            used = FP_ACL_AVX2;
        }
        if (simd != FP_ACL_AVX2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            walk = fp_acl_walk_avx512;
            used = FP_ACL_AVX512;
        }
    }
#endif
    (void)simd;
    __atomic_store_n(&acl->walk, walk, __ATOMIC_RELEASE);
    return used;
}

uint32_t fp_acl_open_reader(struct fp_acl *acl)
{
    for (uint32_t i = 0; i < FP_ACL_MAX_READERS; i++)
        if (!__atomic_exchange_n(&acl->readers[i].open, 1, __ATOMIC_ACQ_REL))
            return i;
    return FP_ACL_MAX_READERS;
}

void fp_acl_close_reader(struct fp_acl *acl, uint32_t reader)
{
    __atomic_store_n(&acl->readers[reader].open, 0, __ATOMIC_RELEASE);
}

/* Between begin and end the memory that the view shows stays as it is. */
static struct fp_acl_view fp_begin(struct fp_acl *acl, uint32_t reader)
{
    const struct fp_acl_image *image;
    uint64_t epoch = __atomic_load_n(&acl->epoch, __ATOMIC_SEQ_CST);

    __atomic_store_n(&acl->readers[reader].epoch, epoch, __ATOMIC_SEQ_CST);
    image = __atomic_load_n(&acl->image, __ATOMIC_SEQ_CST);
    return (struct fp_acl_view){
        .pool = image->pool,
        .valid = image->valid,
        .trees = image->trees,
        .tree_count = __atomic_load_n(&image->tree_count, __ATOMIC_ACQUIRE),
        .prefetch = image->compiled_top > PREFETCH_FROM,
        .plain = !__atomic_load_n(&image->altered, __ATOMIC_SEQ_CST),
    };
}

static void fp_end(struct fp_acl *acl, uint32_t reader)
{
    __atomic_store_n(&acl->readers[reader].epoch, 0, __ATOMIC_RELEASE);
}

/* Classify at most FP_ACL_CHUNK keys. */
static void fp_classify_chunk(fp_acl_walk *walk, const struct fp_acl_view *view, const struct fp_acl_key *keys,
                              uint32_t count, uint32_t *ids)
{
    fp_acl_rank best[FP_ACL_CHUNK];

    walk(view, keys, count, best);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = best[i] ? ~(uint32_t)best[i] >> 8 : FP_ACL_NONE;
}

static uint32_t fp_at_most(size_t count, uint32_t most)
{
    return count < most ? (uint32_t)count : most;
}

void fp_acl_classify(struct fp_acl *acl, uint32_t reader, const struct fp_acl_key *keys, size_t count, uint32_t *ids)
{
    fp_acl_walk *walk = __atomic_load_n(&acl->walk, __ATOMIC_ACQUIRE);

    while (count) {
        struct fp_acl_view view = fp_begin(acl, reader);
        uint32_t round = fp_at_most(count, FP_ACL_ROUND);

        for (uint32_t i = 0; i < round; i += FP_ACL_CHUNK)
            fp_classify_chunk(walk, &view, keys + i, fp_at_most(round - i, FP_ACL_CHUNK), ids + i);
        fp_end(acl, reader);
        keys += round;
        ids += round;
        count -= round;
    }
}

enum fp_acl_error fp_acl_classify_frames(struct fp_acl *acl, uint32_t reader, const uint8_t *buffer, size_t size,
                                         const struct fp_frame *frames, size_t count,
                                         const struct fp_acl_place *place, uint32_t *ids)
{
    fp_acl_walk *walk = __atomic_load_n(&acl->walk, __ATOMIC_ACQUIRE);
    struct fp_acl_key keys[FP_ACL_CHUNK];

    for (size_t i = 0; i < count; i++)
        if (frames[i].offset > size || frames[i].size > size - frames[i].offset)
            return FP_ACL_NO_FRAME;
    for (size_t done = 0; done < count; done += FP_ACL_CHUNK) {
        uint32_t chunk = fp_at_most(count - done, FP_ACL_CHUNK);
        struct fp_acl_view view;

        for (uint32_t i = 0; i < chunk; i++) {
            struct fp_flow_key flow;

            fp_parse(buffer + frames[done + i].offset, frames[done + i].size, &flow);
            fp_acl_key_of(&flow, place, &keys[i]);
        }
        view = fp_begin(acl, reader);
        fp_classify_chunk(walk, &view, keys, chunk, ids + done);
        fp_end(acl, reader);
    }
    return FP_ACL_OK;
}

/* The best so far, best first. */
struct fp_ranking {
    fp_acl_rank *ranks;
    size_t count;
    size_t most;
};

static void fp_rank(struct fp_ranking *ranking, fp_acl_rank rank)
{
    size_t i = ranking->count;

    for (size_t j = 0; j < ranking->count; j++)
        if (ranking->ranks[j] == rank)
            return; /* a copy in another tree */
    if (i == ranking->most && i-- && ranking->ranks[i] > rank)
        return;
    for (; i > 0 && ranking->ranks[i - 1] < rank; i--)
        ranking->ranks[i] = ranking->ranks[i - 1];
    ranking->ranks[i] = rank;
    ranking->count += ranking->count < ranking->most;
}

static void fp_rank_leaf(struct fp_ranking *ranking, const struct fp_acl_view *view, uint32_t reference,
                         const struct fp_acl_key *key)
{
    const uint32_t *leaf = fp_acl_at(view->pool, reference);
    uint32_t n = fp_acl_leaf_size(reference);

    for (uint32_t i = 0; i < n; i++)
        if (fp_acl_matches(leaf, n, i, key) && fp_acl_counts(view, reference, leaf, n, i, key))
            fp_rank(ranking, (uint64_t)leaf[5 * n + i] << 32 | leaf[6 * n + i]);
}

size_t fp_acl_explain(struct fp_acl *acl, uint32_t reader, const struct fp_acl_key *key, uint32_t *ids, size_t most)
{
    struct fp_ranking ranking = {malloc((most + 1) * sizeof(fp_acl_rank)), 0, most};
    struct fp_acl_view view;

    if (!ranking.ranks || !most) {
        free(ranking.ranks);
        return 0;
    }
    view = fp_begin(acl, reader);
    for (uint32_t t = 0; t < view.tree_count; t++) {
        const struct fp_acl_tree *tree = &view.trees[t];
        const uint32_t *root = view.pool + (size_t)tree->unit * (FP_ACL_UNIT / 4);
        uint32_t reference = fp_acl_load(&root[key->word[tree->word] >> tree->shift & tree->mask]);

        while (!fp_acl_is_leaf(reference))
            reference = fp_acl_load(
                &fp_acl_at(view.pool, reference)[fp_acl_index(reference, key->word[reference & 15])]);
        fp_rank_leaf(&ranking, &view, reference, key);
    }
    fp_end(acl, reader);
    for (size_t i = 0; i < ranking.count; i++)
        ids[i] = ~(uint32_t)ranking.ranks[i] >> 8;
    free(ranking.ranks);
    return ranking.count;
}

void fp_acl_measure(struct fp_acl *acl, struct fp_acl_statistics *statistics)
{
    const struct fp_acl_image *image = acl->image;

    *statistics = (struct fp_acl_statistics){
        .rules = image->rules,
        .memory = sizeof *acl + sizeof *acl->builder + fp_acl_memory(image),
        .copies = image->copies,
        .trees = image->tree_count,
        .compilations = acl->compilations,
        .levels = image->levels,
        .leaves = image->leaves,
    };
}
