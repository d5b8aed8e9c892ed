/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifdef __x86_64__
#include "fp_acl_image.h"

#include <immintrin.h>

#define FP_ACL_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi")))
#define FP_ACL_LANES 16
#define FP_ACL_WALK fp_acl_walk_avx512
#define FP_ACL_COMPARE fp_acl_compare

FP_ACL_TARGET static inline __mmask16 fp_acl_in_range(uint32_t port, const uint16_t *first, const uint16_t *span)
{
    __m256i offset = _mm256_sub_epi16(_mm256_set1_epi16((short)port), _mm256_loadu_si256((const __m256i *)first));

    return _mm256_cmple_epu16_mask(offset, _mm256_loadu_si256((const __m256i *)span));
}

/* Zero where the value is the same as the key's, but for "shift" bits at the end. */
FP_ACL_TARGET static inline __m512i fp_acl_differ(uint32_t word, const uint32_t *values, __m512i shift)
{
    __m512i difference = _mm512_xor_si512(_mm512_loadu_si512(values), _mm512_set1_epi32((int)word));

    return _mm512_srlv_epi32(difference, _mm512_and_si512(shift, _mm512_set1_epi32(63)));
}

FP_ACL_TARGET static inline uint32_t fp_acl_compare(const uint32_t *leaf, uint32_t n, uint32_t first,
                                                    const struct fp_acl_key *key)
{
    const uint16_t *ports = (const uint16_t *)(leaf + 2 * n) + first;
    __m512i meta = _mm512_loadu_si512(leaf + 4 * n + first);
    __m512i kind = _mm512_set1_epi32((int)(key->word[FP_ACL_PROTOCOL] << FP_ACL_META_PROTOCOL));
    __m512i wrong = _mm512_or_si512(
        fp_acl_differ(key->word[FP_ACL_SRC], leaf + first, meta),
        fp_acl_differ(key->word[FP_ACL_DST], leaf + n + first, _mm512_srli_epi32(meta, FP_ACL_META_DST)));
    __mmask16 other_protocol =
        _mm512_test_epi32_mask(_mm512_xor_si512(meta, kind), _mm512_set1_epi32(0xff << FP_ACL_META_PROTOCOL));
    __mmask16 found = _mm512_test_epi32_mask(_mm512_and_si512(meta, kind), _mm512_set1_epi32(0x7f000000));

    found &= (__mmask16)~(other_protocol & (__mmask16)~_mm512_movepi32_mask(meta));
    found &= _mm512_testn_epi32_mask(wrong, wrong);
    found &= fp_acl_in_range(key->word[FP_ACL_SRC_PORT], ports, ports + 2 * n);
    found &= fp_acl_in_range(key->word[FP_ACL_DST_PORT], ports + n, ports + 3 * n);
    return found;
}

#include "fp_acl_walk.h"
#endif
