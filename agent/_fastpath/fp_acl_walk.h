/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The lookup.  Included once for each kind of SIMD, with two macros set:
 * FP_ACL_TARGET (attributes of functions) and FP_ACL_COMPARE(leaf, n, i, key),
 * a function that returns a mask of which of the rules i, i + 1, ... of a leaf of n
 * match by its arrays, at least of FP_ACL_LANES of them (those past the last are
 * ignored).
 */
#include "fp_acl_image.h"

/* Lists of keys by number.  A list has room for one more than there are keys:
 * what goes on is written always and counted sometimes, without a branch. */
struct fp_acl_list {
    uint8_t key[FP_ACL_CHUNK + 1];
    uint32_t count;
};

/* The keys that go down one tree together. */
struct fp_acl_front {
    uint32_t reference[FP_ACL_CHUNK]; /* where each key stands */
    struct fp_acl_list nodes;         /* keys that have to go on */
    struct fp_acl_list leaves;        /* keys that stand at a leaf that is not empty */
};

FP_ACL_TARGET static inline __attribute__((always_inline)) void
fp_acl_step_to(struct fp_acl_front *front, const struct fp_acl_view *view, uint32_t key, uint32_t reference)
{
    uint32_t leaf = fp_acl_is_leaf(reference);

    __builtin_prefetch(fp_acl_at(view->pool, reference));
    front->reference[key] = reference;
    front->nodes.key[front->nodes.count] = (uint8_t)key;
    front->nodes.count += !leaf;
    front->leaves.key[front->leaves.count] = (uint8_t)key;
    front->leaves.count += leaf & (reference != FP_ACL_LEAF);
}

FP_ACL_TARGET static inline __attribute__((always_inline)) void
fp_acl_enter(struct fp_acl_front *front, const struct fp_acl_view *view, const struct fp_acl_tree *tree,
             const struct fp_acl_key *keys, uint32_t count, const fp_acl_rank *best)
{
    const uint32_t *root = view->pool + (size_t)tree->unit * (FP_ACL_UNIT / 4);
    uint32_t word = tree->word, shift = tree->shift, mask = tree->mask;
    uint64_t limit = (uint64_t)__atomic_load_n(&tree->max_priority, __ATOMIC_ACQUIRE) + 1;
    struct fp_acl_list asked = {.count = 0};

    for (uint32_t k = 0; k < count; k++) {
        asked.key[asked.count] = (uint8_t)k;
        asked.count += best[k] >> 32 < limit;
    }
    front->nodes.count = front->leaves.count = 0;
    for (uint32_t i = 0; i < asked.count; i++) {
        uint32_t k = asked.key[i];

        fp_acl_step_to(front, view, k, fp_acl_load(&root[keys[k].word[word] >> shift & mask]));
    }
}

FP_ACL_TARGET static inline __attribute__((always_inline)) void
fp_acl_descend(struct fp_acl_front *front, const struct fp_acl_view *view, const struct fp_acl_key *keys)
{
    while (front->nodes.count) {
        uint32_t count = front->nodes.count;

        front->nodes.count = 0; /* is written behind what is read */
        for (uint32_t i = 0; i < count; i++) {
            uint32_t k = front->nodes.key[i];
            uint32_t reference = front->reference[k];
            uint32_t index = fp_acl_index(reference, keys[k].word[reference & 15]);

            fp_acl_step_to(front, view, k, fp_acl_load(&fp_acl_at(view->pool, reference)[index]));
        }
    }
}

FP_ACL_TARGET static inline __attribute__((always_inline)) void
fp_acl_read_leaf(const struct fp_acl_view *view, uint32_t reference, const struct fp_acl_key *key, fp_acl_rank *best)
{
    const uint32_t *leaf = fp_acl_at(view->pool, reference);
    uint32_t n = fp_acl_leaf_size(reference);

    for (uint32_t first = 0; first < n; first += FP_ACL_LANES) {
        uint32_t found = FP_ACL_COMPARE(leaf, n, first, key);

        if (n - first < FP_ACL_LANES)
            found &= (1u << (n - first)) - 1;
        for (; found; found &= found - 1) {
            uint32_t i = first + (uint32_t)__builtin_ctz(found);
            fp_acl_rank rank = (uint64_t)leaf[5 * n + i] << 32 | leaf[6 * n + i];

            if (!fp_acl_counts(view, reference, leaf, n, i, key))
                continue;
            *best = rank > *best ? rank : *best;
            return; /* the others of this leaf have lower priorities */
        }
    }
}

/* The same for a leaf of few rules that all count, without a branch on what is found. */
FP_ACL_TARGET static inline __attribute__((always_inline)) void
fp_acl_read_plain_leaf(const struct fp_acl_view *view, uint32_t reference, const struct fp_acl_key *key,
                       fp_acl_rank *best)
{
    const uint32_t *leaf = fp_acl_at(view->pool, reference);
    uint32_t n = fp_acl_leaf_size(reference);
    uint32_t found = FP_ACL_COMPARE(leaf, n, 0, key) & ((1u << n) - 1);
    uint32_t i = found ? (uint32_t)__builtin_ctz(found) : 0;
    fp_acl_rank rank = (uint64_t)leaf[5 * n + i] << 32 | leaf[6 * n + i];

    rank = found ? rank : 0;
    *best = rank > *best ? rank : *best;
}

FP_ACL_TARGET void FP_ACL_WALK(const struct fp_acl_view *view, const struct fp_acl_key *keys, uint32_t count,
                               fp_acl_rank *best)
{
    struct fp_acl_front front;

    for (uint32_t k = 0; k < count; k++)
        best[k] = 0;
    for (uint32_t t = 0; t < view->tree_count; t++) {
        fp_acl_enter(&front, view, &view->trees[t], keys, count, best);
        fp_acl_descend(&front, view, keys);
        for (uint32_t i = 0; view->prefetch && i < front.leaves.count; i++) {
            const char *leaf = (const char *)fp_acl_at(view->pool, front.reference[front.leaves.key[i]]);

            __builtin_prefetch(leaf + 64);
            __builtin_prefetch(leaf + 128);
        }
        for (uint32_t i = 0; i < front.leaves.count; i++) {
            uint32_t k = front.leaves.key[i], reference = front.reference[k];

            if (view->plain && fp_acl_leaf_size(reference) <= FP_ACL_LANES && !(reference & FP_ACL_LEAF_CONDITIONS))
                fp_acl_read_plain_leaf(view, reference, &keys[k], &best[k]);
            else
                fp_acl_read_leaf(view, reference, &keys[k], &best[k]);
        }
    }
}
