/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifdef __x86_64__
#include "fp_acl_image.h"

#include <immintrin.h>

#define FP_ACL_TARGET __attribute__((target("avx2,bmi")))
#define FP_ACL_LANES 8
#define FP_ACL_WALK fp_acl_walk_avx2
#define FP_ACL_COMPARE fp_acl_compare

FP_ACL_TARGET static inline __m256i fp_acl_two(const uint16_t *low, const uint16_t *high)
{
    __m128i first = _mm_loadu_si128((const __m128i *)low);

    return _mm256_inserti128_si256(_mm256_castsi128_si256(first), _mm_loadu_si128((const __m128i *)high), 1);
}

FP_ACL_TARGET static inline uint32_t fp_acl_compare(const uint32_t *leaf, uint32_t n, uint32_t first,
                                                    const struct fp_acl_key *key)
{
    const uint16_t *ports = (const uint16_t *)(leaf + 2 * n) + first;
    __m256i shift_mask = _mm256_set1_epi32(63);
    __m256i meta = _mm256_loadu_si256((const __m256i *)(leaf + 4 * n + first));
    /* All bits of "wrong" are zero where a rule matches. */
    __m256i src = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(leaf + first)),
                                   _mm256_set1_epi32((int)key->word[FP_ACL_SRC]));
    __m256i dst = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(leaf + n + first)),
                                   _mm256_set1_epi32((int)key->word[FP_ACL_DST]));
    __m256i wrong = _mm256_or_si256(
        _mm256_srlv_epi32(src, _mm256_and_si256(meta, shift_mask)),
        _mm256_srlv_epi32(dst, _mm256_and_si256(_mm256_srli_epi32(meta, FP_ACL_META_DST), shift_mask)));

    /* Protocol and class of the key where meta has them: the protocol shall be
     * equal unless the sign says any, and a class shall be common. */
    __m256i kind = _mm256_set1_epi32((int)(key->word[FP_ACL_PROTOCOL] << FP_ACL_META_PROTOCOL));
    __m256i protocol = _mm256_and_si256(_mm256_xor_si256(meta, kind), _mm256_set1_epi32(0xff << FP_ACL_META_PROTOCOL));
    __m256i classes = _mm256_and_si256(_mm256_and_si256(meta, kind), _mm256_set1_epi32(0x7f000000));

    wrong = _mm256_or_si256(wrong, _mm256_andnot_si256(_mm256_srai_epi32(meta, 31), protocol));
    wrong = _mm256_or_si256(wrong, _mm256_cmpeq_epi32(classes, _mm256_setzero_si256()));

    /* Source ports in the lower half, destination ports in the upper. */
    __m256i key_ports = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_set1_epi16((short)key->word[FP_ACL_SRC_PORT])),
        _mm_set1_epi16((short)key->word[FP_ACL_DST_PORT]), 1);
    __m256i beyond = _mm256_subs_epu16(_mm256_sub_epi16(key_ports, fp_acl_two(ports, ports + n)),
                                       fp_acl_two(ports + 2 * n, ports + 3 * n));
    __m128i either = _mm_or_si128(_mm256_castsi256_si128(beyond), _mm256_extracti128_si256(beyond, 1));

    wrong = _mm256_or_si256(wrong, _mm256_cvtepu16_epi32(either));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(wrong, _mm256_setzero_si256())));
}

#include "fp_acl_walk.h"
#endif
