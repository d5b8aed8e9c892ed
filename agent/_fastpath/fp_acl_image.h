/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What a compiled forest looks like in memory, and how it is walked; shared by
 * everything that is called fp_acl.  The design is in fp_acl.h.
 *
 * The pool
 * --------
 *
 * An array of 16-byte units that refer to each other by index.  A reference:
 *
 *   bits 31-12  unit
 *   bits 11-9   node: width - 1                     leaf: bit 9, it has conditions; bit 10, it has twins
 *   bits 8-4    node: shift                         leaf: number of rules
 *   bits 3-0    node: word (0 to 13)                15: leaf
 *
 * A node is an array of 2^width references.  A leaf of n rules, in words:
 *
 *   src[n]  dst[n]                                  value of the first word
 *   src_first[n] dst_first[n] src_span[n] dst_span[n]   ports, 16 bits each; last - first
 *   meta[n]                                         see below
 *   priority[n]
 *   name[n]                                         ~(id << 8 | generation)
 *   conditions[n]                                   only with bit 9: unit, or 0
 *
 * Vector code may read past the last rule of a leaf, but never past the pool.
 * A leaf that may hold copies that do not count is read with care ("plain" is not
 * set): the first deletion or modification after a compilation says so.
 */
#ifndef FP_ACL_IMAGE_H
#define FP_ACL_IMAGE_H

#include "fp_acl.h"

#ifdef __SANITIZE_THREAD__
#define FP_ACL_THREADS_ARE_CHECKED 1
#endif

#define FP_ACL_CHUNK 64          /* keys that go down together */
#define FP_ACL_LEAF 15u
#define FP_ACL_LEAF_MAX 31       /* rules */
#define FP_ACL_LEAF_CONDITIONS 0x200u
#define FP_ACL_LEAF_TWIN 0x400u  /* more than one reference of the node is to it */
#define FP_ACL_MAX_TREES 8192
#define FP_ACL_UNIT 16
#define FP_ACL_MAX_UNITS (1u << 20)
#define FP_ACL_WORDS_PER_RULE 7  /* of a leaf, without conditions */

/* meta of a rule in a leaf: by how many bits the difference of the addresses is
 * shifted out, the protocol, the set of classes. */
#define FP_ACL_META_SRC 0
#define FP_ACL_META_DST 8
#define FP_ACL_META_PROTOCOL 16
#define FP_ACL_META_CLASSES 24
#define FP_ACL_META_ANY_PROTOCOL 0x80000000u
#define FP_ACL_ALL_CLASSES 0x7fu
#define FP_ACL_IPV4_CLASSES 0x07u
#define FP_ACL_IPV6_CLASSES 0x38u

/* The rest of a rule: everything that the arrays of a leaf do not hold. */
struct fp_acl_conditions {
    uint64_t dscp;
    uint32_t network;
    uint32_t port;
    uint32_t src_rest[3];
    uint32_t dst_rest[3];
    uint16_t eth_type;
    uint8_t src_length; /* of IPv6 prefixes; those of IPv4 are in the leaf */
    uint8_t dst_length;
    uint8_t fields;     /* enum fp_acl_field */
    uint8_t direction;
    uint8_t protocol;
    uint8_t protocol_mask;
    uint8_t fragments;
    uint8_t reserved[7];
};

struct fp_acl_tree {
    uint32_t unit;         /* of the root's references */
    uint32_t mask;         /* 2^width - 1; roots may be wider than nodes */
    uint32_t max_priority;
    uint8_t word;
    uint8_t shift;
    uint16_t reserved;
};

/* What a lookup needs, and all that it needs. */
struct fp_acl_view {
    const uint32_t *pool;
    const uint16_t *valid;        /* by id: the two generations that count; none is 0 */
    const struct fp_acl_tree *trees;
    uint32_t tree_count;
    uint32_t prefetch;            /* the image is larger than the first cache */
    uint32_t plain;               /* whatever is in a leaf is valid */
};

static inline const uint32_t *fp_acl_at(const uint32_t *pool, uint32_t reference)
{
    return pool + (size_t)(reference >> 12) * (FP_ACL_UNIT / 4);
}

static inline uint32_t fp_acl_is_leaf(uint32_t reference)
{
    return (reference & 15) == FP_ACL_LEAF;
}

static inline uint32_t fp_acl_leaf_size(uint32_t reference)
{
    return reference >> 4 & 31;
}

/* Return the index into a node's references that a key with this word has. */
static inline uint32_t fp_acl_index(uint32_t reference, uint32_t word)
{
    return word >> (reference >> 4 & 31) & ((2u << (reference >> 9 & 7)) - 1);
}

static inline uint32_t fp_acl_load(const uint32_t *reference)
{
    return __atomic_load_n(reference, __ATOMIC_ACQUIRE);
}

static inline int fp_acl_is_valid(const struct fp_acl_view *view, uint32_t name)
{
    uint32_t generation = ~name & 0xff;
    uint32_t valid = __atomic_load_n(&view->valid[~name >> 8], __ATOMIC_ACQUIRE);

    return generation == (valid & 0xff) || generation == valid >> 8;
}

/* Say whether "bits" bits of 96, in three words, are equal. */
static inline int fp_acl_same_rest(const uint32_t *left, const uint32_t *right, int bits)
{
    for (int i = 0; i < 3 && bits > 0; i++, bits -= 32)
        if ((left[i] ^ right[i]) & (bits >= 32 ? 0xffffffffu : ~(0xffffffffu >> bits)))
            return 0;
    return 1;
}

static inline int fp_acl_meets(const struct fp_acl_conditions *rest, const struct fp_acl_key *key)
{
    uint32_t misc = key->word[FP_ACL_MISC];

    if (rest->fields & FP_ACL_HAS_NETWORK && rest->network != key->word[FP_ACL_NETWORK])
        return 0;
    if (rest->fields & FP_ACL_HAS_PORT && rest->port != key->word[FP_ACL_PORT])
        return 0;
    if (rest->fields & FP_ACL_HAS_ETH_TYPE && rest->eth_type != misc >> 16)
        return 0;
    if (rest->fields & FP_ACL_HAS_DIRECTION && rest->direction != (misc >> 8 & 1))
        return 0;
    if (!(rest->dscp >> (misc >> 2 & 63) & 1) || !(rest->fragments >> (misc & 3) & 1))
        return 0;
    if ((rest->protocol ^ key->word[FP_ACL_PROTOCOL]) & rest->protocol_mask)
        return 0;
    return fp_acl_same_rest(rest->src_rest, &key->word[FP_ACL_SRC_REST], rest->src_length - 32) &&
           fp_acl_same_rest(rest->dst_rest, &key->word[FP_ACL_DST_REST], rest->dst_length - 32);
}

/* Say whether rule "i" of a leaf of "n" that matches by its arrays matches indeed. */
static inline int fp_acl_counts(const struct fp_acl_view *view, uint32_t reference, const uint32_t *leaf, uint32_t n,
                                uint32_t i, const struct fp_acl_key *key)
{
    if (!fp_acl_is_valid(view, leaf[6 * n + i]))
        return 0;
    if (reference & FP_ACL_LEAF_CONDITIONS && leaf[7 * n + i])
        return fp_acl_meets((const void *)(view->pool + (size_t)leaf[7 * n + i] * (FP_ACL_UNIT / 4)), key);
    return 1;
}

/* Say whether rule "i" of a leaf of "n" matches by its arrays. */
static inline int fp_acl_matches(const uint32_t *leaf, uint32_t n, uint32_t i, const struct fp_acl_key *key)
{
    const uint16_t *ports = (const uint16_t *)(leaf + 2 * n);
    uint32_t meta = leaf[4 * n + i];
    uint32_t protocol = key->word[FP_ACL_PROTOCOL];
    /* A shift by 32 is not defined for 32 bits. */
    uint64_t src = key->word[FP_ACL_SRC] ^ leaf[i];
    uint64_t dst = key->word[FP_ACL_DST] ^ leaf[n + i];

    if (src >> (meta & 63) || dst >> (meta >> FP_ACL_META_DST & 63))
        return 0;
    if ((uint16_t)(key->word[FP_ACL_SRC_PORT] - ports[i]) > ports[2 * n + i])
        return 0;
    if ((uint16_t)(key->word[FP_ACL_DST_PORT] - ports[n + i]) > ports[3 * n + i])
        return 0;
    if (!(meta & FP_ACL_META_ANY_PROTOCOL) && ((meta >> FP_ACL_META_PROTOCOL ^ protocol) & 0xff))
        return 0;
    return (meta >> FP_ACL_META_CLASSES & protocol >> 8 & FP_ACL_ALL_CLASSES) != 0;
}

/* The best match so far: priority << 32 | name of a rule; 0: none. */
typedef uint64_t fp_acl_rank;

/* Classify up to FP_ACL_CHUNK keys. */
typedef void fp_acl_walk(const struct fp_acl_view *view, const struct fp_acl_key *keys, uint32_t count,
                         fp_acl_rank *best);

fp_acl_walk fp_acl_walk_scalar;
#ifdef __x86_64__
fp_acl_walk fp_acl_walk_avx2;
fp_acl_walk fp_acl_walk_avx512;
#endif

#endif /* FP_ACL_IMAGE_H */
