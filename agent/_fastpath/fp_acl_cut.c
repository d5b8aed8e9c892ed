/* SPDX-License-Identifier: Apache-2.0
 *
 * Where to cut.  For each bit of the key: how many rules have it 0, 1, or both.  The
 * fields with the best sums over their bits are then tried on the rules.
 */
#include "fp_acl_internal.h"

#include <string.h>

#define BIT_SAMPLE 256u   /* rules that bits are counted in */
#define TRIAL_SAMPLE 1024u /* rules that cuts are tried on */
#define TRIALS 4          /* cuts of each width that are tried */
#define MAX_WIDTH 16

/* A rule that has a bit both ways counts so much against it as a third of one that it sets apart. */
#define BOTH_PRICE 0.35
#define KICK_PRICE 4.0
#define MEMORY_PRICE 0.5
#define GAIN_MIN 0.05     /* what a cut has to be better than none, in halvings */

/* The bits of each word that a cut may use. */
static const uint8_t fp_word_bits[FP_ACL_WORDS] = {
    [FP_ACL_SRC] = 32, [FP_ACL_DST] = 32, [FP_ACL_SRC_PORT] = 16, [FP_ACL_DST_PORT] = 16,
    [FP_ACL_PROTOCOL] = 8, [FP_ACL_NETWORK] = 32, [FP_ACL_PORT] = 32, [FP_ACL_MISC] = 32,
    [FP_ACL_SRC_REST] = 32, [FP_ACL_SRC_REST + 1] = 32, [FP_ACL_SRC_REST + 2] = 32,
    [FP_ACL_DST_REST] = 32, [FP_ACL_DST_REST + 1] = 32, [FP_ACL_DST_REST + 2] = 32,
};

/* Return log2(x) for x > 0, exact for powers of two, at most 0.09 too low between. */
static double fp_log2(double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (double)(int)((bits >> 52 & 0x7ff) - 1023) + (double)(bits & 0xfffffffffffffull) / (double)(1ull << 52);
}

/* How useful each bit is. */
struct fp_bits {
    double gain[FP_ACL_WORDS][32];
};

static void fp_weigh_bits(const struct fp_acl_builder *builder, const uint32_t *list, uint32_t count,
                          struct fp_bits *bits)
{
    uint32_t ones[FP_ACL_WORDS][32] = {{0}}, both[FP_ACL_WORDS][32] = {{0}};
    uint32_t step = count > BIT_SAMPLE ? count / BIT_SAMPLE : 1, seen = 0;

    for (uint32_t i = 0; i < count; i += step, seen++) {
        const struct fp_acl_item *item = &builder->items[list[i]];

        for (int w = 0; w < FP_ACL_WORDS; w++) {
            uint32_t differ = item->low[w] ^ item->high[w];
            uint32_t open = differ ? 0xffffffffu >> __builtin_clz(differ) : 0;

            for (uint32_t rest = item->low[w] & ~open; rest; rest &= rest - 1)
                ones[w][__builtin_ctz(rest)]++;
            /* The open bits are the lowest ones. */
            if (open)
                both[w][31 - __builtin_clz(open)]++;
        }
    }
    for (int w = 0; w < FP_ACL_WORDS; w++) {
        uint32_t open = 0;

        for (int b = 31; b >= 0; b--) {
            uint32_t one = ones[w][b], zero;

            open += both[w][b];
            zero = seen - open - one;
            bits->gain[w][b] = (one < zero ? one : zero) - BOTH_PRICE * open;
        }
    }
}

/* Return what is left to do after a cut, in halvings; more than without for a bad one. */
static double fp_try(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count,
                     const struct fp_acl_cut *cut)
{
    uint32_t step = count > TRIAL_SAMPLE ? count / TRIAL_SAMPLE : 1;
    uint32_t children = 1u << cut->width, everywhere = 0, kicked = 0, tried = 0;
    double sum = 0, squares = 0;

    memset(builder->histogram, 0, children * sizeof *builder->histogram);
    for (uint32_t i = 0; i < count; i += step, tried++) {
        uint32_t first, cover = fp_acl_cover(&builder->items[list[i]], cut, &first);

        if (builder->kicked && cover > builder->plan->kick)
            kicked++;
        else if (cover == children)
            everywhere++;
        else
            for (uint32_t j = 0; j < cover; j++)
                builder->histogram[(first + j) & (children - 1)]++;
    }
    if (kicked == tried)
        return 1e9;
    for (uint32_t i = 0; i < children; i++) {
        double size = builder->histogram[i] + everywhere;

        sum += size;
        squares += size * size;
    }
    /* squares / sum: what a key of one of the rules finds in its child. */
    return fp_log2(squares / sum * step + 0.5) + KICK_PRICE * kicked / tried +
           builder->plan->copy_price * fp_log2(sum / (tried - kicked)) +
           MEMORY_PRICE * builder->plan->spread * children * 4 / (28.0 * count);
}

struct fp_candidate {
    double gain;
    struct fp_acl_cut cut;
};

/* Keep the best few, best first. */
static void fp_offer(struct fp_candidate best[TRIALS], const struct fp_candidate *candidate)
{
    int i = TRIALS - 1;

    if (candidate->gain <= best[i].gain)
        return;
    for (; i > 0 && best[i - 1].gain < candidate->gain; i--)
        best[i] = best[i - 1];
    best[i] = *candidate;
}

static void fp_rank_fields(const struct fp_bits *bits, uint32_t width, struct fp_candidate best[TRIALS])
{
    /* One bit may be bad and still the best there is; more than one have to be good. */
    for (int i = 0; i < TRIALS; i++)
        best[i] = (struct fp_candidate){.gain = width > 1 ? 0 : -1e9};
    for (uint32_t w = 0; w < FP_ACL_WORDS; w++) {
        double gain = 0;

        for (uint32_t b = 0; b < fp_word_bits[w]; b++) {
            gain += bits->gain[w][b] - (b >= width ? bits->gain[w][b - width] : 0);
            if (b + 1 >= width)
                fp_offer(best, &(struct fp_candidate){gain, {w, b + 1 - width, width}});
        }
    }
}

/* Find the best cut; return 0 if there is none that helps. */
int fp_acl_choose(struct fp_acl_builder *builder, const uint32_t *list, uint32_t count, uint32_t max_width,
                  struct fp_acl_cut *cut)
{
    struct fp_candidate fields[TRIALS];
    struct fp_bits bits;
    double best = fp_log2(count + 0.5) - GAIN_MIN;
    int found = 0;

    fp_weigh_bits(builder, list, count, &bits);
    for (uint32_t width = 1; width <= max_width && width <= MAX_WIDTH; width++) {
        if (width > 2 && (double)(1u << width) > count * builder->plan->spread + 4)
            break;
        fp_rank_fields(&bits, width, fields);
        for (int i = 0; i < TRIALS; i++) {
            double left = fields[i].cut.width ? fp_try(builder, list, count, &fields[i].cut) : 1e9;

            if (left < best) {
                best = left;
                *cut = fields[i].cut;
                found = 1;
            }
        }
    }
    return found;
}
