/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#include "fp_acl_image.h"

#define FP_ACL_TARGET
#define FP_ACL_LANES 8
#define FP_ACL_WALK fp_acl_walk_scalar
#define FP_ACL_COMPARE fp_acl_compare

/* Never reads past the last rule, unlike its vector siblings. */
static inline uint32_t fp_acl_compare(const uint32_t *leaf, uint32_t n, uint32_t first, const struct fp_acl_key *key)
{
    uint32_t end = n - first < FP_ACL_LANES ? n : first + FP_ACL_LANES;
    uint32_t found = 0;

    for (uint32_t i = first; i < end; i++)
        found |= (uint32_t)fp_acl_matches(leaf, n, i, key) << (i - first);
    return found;
}

#include "fp_acl_walk.h"
