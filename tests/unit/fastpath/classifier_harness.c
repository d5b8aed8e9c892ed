/* SPDX-License-Identifier: Apache-2.0
 *
 * The classifier against a linear search, at sizes and under sanitizers that Python does not reach:
 *
 *   agree RULES KEYS SEED   rule sets of its own making; each kind of code, changes, explain
 *   threads SECONDS         two readers against a writer
 *
 * Says what is wrong on standard error and ends with 1.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fp_acl.h"

#define CAPACITY 20000

static uint64_t state;

static uint32_t dice(uint32_t sides)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % sides;
}

static void fail(const char *what, uint32_t want, uint32_t got)
{
    fprintf(stderr, "%s: expected %u, got %u\n", what, want, got);
    exit(1);
}

/* The first bits come from few values, so that prefixes share and contain each other. */
static void draw_address(uint8_t address[16], uint32_t length)
{
    memset(address, 0, 16);
    for (uint32_t i = 0; i < 16; i++)
        address[i] = (uint8_t)(i == 0 ? 10 + dice(3) : i == 1 ? dice(8) * 32 : dice(256));
    for (uint32_t bit = length; bit < 128; bit++)
        address[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
}

static void draw_ports(uint16_t *first, uint16_t *last)
{
    static const uint16_t known[] = {22, 53, 80, 123, 443, 1024, 5060, 8080};

    *first = 0;
    *last = 65535;
    if (dice(3) == 0)
        *first = *last = known[dice(8)];
    if (dice(5) == 0) {
        *first = (uint16_t)dice(60000);
        *last = (uint16_t)(*first + dice(5000));
    }
}

static void draw_rule(struct fp_acl_rule *rule, uint32_t id)
{
    static const uint8_t lengths[] = {0, 0, 8, 12, 16, 20, 24, 28, 32, 32, 48, 64, 96, 128};

    memset(rule, 0, sizeof *rule);
    rule->id = id;
    rule->priority = dice(1000);
    rule->version = dice(8) ? 4 : 6;
    rule->src_length = lengths[dice(rule->version == 4 ? 10 : 14)];
    rule->dst_length = lengths[dice(rule->version == 4 ? 10 : 14)];
    draw_address(rule->src, rule->src_length);
    draw_address(rule->dst, rule->dst_length);
    draw_ports(&rule->src_port_first, &rule->src_port_last);
    draw_ports(&rule->dst_port_first, &rule->dst_port_last);
    if (dice(2)) {
        rule->protocol_mask = dice(8) ? 0xff : 0xf0;
        rule->protocol = (dice(2) ? 6 : 17) & rule->protocol_mask;
    }
    if (dice(10) == 0) {
        rule->fields = FP_ACL_HAS_PORT;
        rule->port = dice(4);
    }
    if (dice(20) == 0)
        rule->dscp = (uint64_t)1 << dice(4);
    if (dice(30) == 0)
        rule->fragments = (uint8_t)(1 + dice(6));
}

static uint32_t word_of(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* A corner of a rule, or near it. */
static void draw_key(struct fp_acl_key *key, const struct fp_acl_rule *rule)
{
    memset(key, 0, sizeof *key);
    for (int i = 0; i < 4; i++) {
        int src = i ? FP_ACL_SRC_REST + i - 1 : FP_ACL_SRC, dst = i ? FP_ACL_DST_REST + i - 1 : FP_ACL_DST;

        if (i && rule->version == 4)
            break;
        key->word[src] = word_of(rule->src + 4 * i) | (rule->src_length < 24 ? dice(256) : 0);
        key->word[dst] = word_of(rule->dst + 4 * i) | (rule->dst_length < 24 ? dice(256) : 0);
    }
    key->word[FP_ACL_SRC_PORT] = dice(2) ? rule->src_port_first : rule->src_port_last;
    key->word[FP_ACL_DST_PORT] = dice(2) ? rule->dst_port_first : rule->dst_port_last;
    key->word[FP_ACL_PROTOCOL] = (dice(2) ? 6u : 17u) |
                                 (uint32_t)(rule->version == 4 ? FP_ACL_IPV4_PORTS : FP_ACL_IPV6_PORTS) << 8;
    key->word[FP_ACL_PORT] = dice(4);
    key->word[FP_ACL_MISC] = dice(4) << 2 | (dice(10) ? 0 : dice(3));
}

static int has_prefix(const uint8_t *prefix, uint32_t length, uint32_t first, const uint32_t *rest)
{
    for (uint32_t bit = 0; bit < length; bit++) {
        uint32_t word = bit < 32 ? first : rest[bit / 32 - 1];

        if ((word >> (31 - bit % 32) & 1) != (uint32_t)(prefix[bit / 8] >> (7 - bit % 8) & 1))
            return 0;
    }
    return 1;
}

static int matches(const struct fp_acl_rule *rule, const struct fp_acl_key *key)
{
    const uint32_t *word = key->word;
    uint32_t version = word[FP_ACL_PROTOCOL] >> 8 == FP_ACL_IPV4_PORTS ? 4 : 6;

    if (rule->version != version || ((rule->protocol ^ word[FP_ACL_PROTOCOL]) & rule->protocol_mask))
        return 0;
    if (word[FP_ACL_SRC_PORT] < rule->src_port_first || word[FP_ACL_SRC_PORT] > rule->src_port_last)
        return 0;
    if (word[FP_ACL_DST_PORT] < rule->dst_port_first || word[FP_ACL_DST_PORT] > rule->dst_port_last)
        return 0;
    if (rule->fields && rule->port != word[FP_ACL_PORT])
        return 0;
    if (rule->dscp && !(rule->dscp >> (word[FP_ACL_MISC] >> 2 & 63) & 1))
        return 0;
    if (rule->fragments && !(rule->fragments >> (word[FP_ACL_MISC] & 3) & 1))
        return 0;
    return has_prefix(rule->src, rule->src_length, word[FP_ACL_SRC], word + FP_ACL_SRC_REST) &&
           has_prefix(rule->dst, rule->dst_length, word[FP_ACL_DST], word + FP_ACL_DST_REST);
}

/* The rules as they should be. */
static struct fp_acl_rule model[CAPACITY];
static uint8_t there[CAPACITY];

static uint32_t search(uint32_t count, const struct fp_acl_key *key, uint32_t except)
{
    uint32_t best = FP_ACL_NONE;

    for (uint32_t i = 0; i < count; i++)
        if (there[i] && i != except && (best == FP_ACL_NONE || model[i].priority > model[best].priority) &&
            matches(&model[i], key))
            best = i;
    return best;
}

static void compare(struct fp_acl *acl, uint32_t reader, uint32_t count, uint32_t key_count)
{
    struct fp_acl_key *keys = aligned_alloc(64, key_count * sizeof *keys);
    uint32_t *want = malloc(key_count * sizeof *want), *got = malloc(key_count * sizeof *got), next[2];

    for (uint32_t i = 0; i < key_count; i++) {
        draw_key(&keys[i], &model[dice(count)]);
        want[i] = search(count, &keys[i], FP_ACL_NONE);
    }
    for (uint32_t simd = FP_ACL_BEST; simd <= FP_ACL_AVX512; simd++) {
        fp_acl_use(acl, (enum fp_acl_simd)simd);
        fp_acl_classify(acl, reader, keys, key_count, got);
        for (uint32_t i = 0; i < key_count; i++)
            if (want[i] != got[i])
                fail("classify", want[i], got[i]);
    }
    for (uint32_t i = 0; i < key_count; i += 16) {
        size_t found = fp_acl_explain(acl, reader, &keys[i], next, 2);
        uint32_t second = want[i] == FP_ACL_NONE ? FP_ACL_NONE : search(count, &keys[i], want[i]);

        if ((found > 0 ? next[0] : FP_ACL_NONE) != want[i])
            fail("explain, first", want[i], next[0]);
        if ((found > 1 ? next[1] : FP_ACL_NONE) != second)
            fail("explain, second", second, next[1]);
    }
    free(keys);
    free(want);
    free(got);
}

static void change(struct fp_acl *acl, uint32_t count, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        struct fp_acl_change one = {.verb = FP_ACL_DELETE};
        uint32_t id = dice(count);

        if (!there[id] || dice(2)) {
            one.verb = there[id] ? FP_ACL_MODIFY : FP_ACL_INSERT;
            draw_rule(&model[id], id);
        }
        one.rule = model[id];
        there[id] = one.verb != FP_ACL_DELETE;
        if (fp_acl_apply(acl, &one, 1))
            fail("change", FP_ACL_OK, one.result);
    }
}

static int agree(uint32_t count, uint32_t key_count)
{
    struct fp_acl *acl = fp_acl_new(CAPACITY);
    uint32_t reader = fp_acl_open_reader(acl);
    size_t bad;

    for (uint32_t i = 0; i < count; i++) {
        draw_rule(&model[i], i);
        there[i] = 1;
    }
    if (fp_acl_compile(acl, model, count, &bad))
        fail("compile", (uint32_t)count, (uint32_t)bad);
    compare(acl, reader, count, key_count);
    for (int round = 0; round < 3; round++) {
        change(acl, count, count);
        compare(acl, reader, count, key_count / 4);
    }
    fp_acl_close_reader(acl, reader);
    fp_acl_free(acl);
    return 0;
}

/* Rule 0 matches everything, rule 1 nearly so and goes to and fro between two
 * addresses, one of which is the key's; rule 2 is always there and matches, with two priorities. */
static int stop;

static void *read_on(void *argument)
{
    struct fp_acl *acl = argument;
    uint32_t reader = fp_acl_open_reader(acl), ids[128];
    struct fp_acl_key keys[128];

    memset(keys, 0, sizeof keys);
    for (int i = 0; i < 128; i++) {
        keys[i].word[FP_ACL_SRC] = 0x0a000001;
        keys[i].word[FP_ACL_DST] = (uint32_t)i << 24;
        keys[i].word[FP_ACL_PROTOCOL] = 6 | FP_ACL_IPV4_PORTS << 8;
    }
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        fp_acl_classify(acl, reader, keys, 128, ids);
        for (int i = 0; i < 128; i++)
            if (ids[i] != 2 && ids[i] < 100)
                fail("beside a writer", 2, ids[i]);
    }
    fp_acl_close_reader(acl, reader);
    return NULL;
}

static void write_on(struct fp_acl *acl, double seconds)
{
    struct timespec start, now;
    struct fp_acl_change one;

    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (uint32_t i = 0; i < 200; i++) {
            uint32_t id = i % 4 ? 100 + dice(900) : 2;

            memset(&one, 0, sizeof one);
            one.verb = FP_ACL_MODIFY;
            draw_rule(&one.rule, id);
            if (id == 2) { /* in another tree each time */
                one.rule = (struct fp_acl_rule){.id = 2, .priority = 5000 + dice(2), .version = 4, .src = {10},
                                                .src_length = (uint8_t)(dice(2) ? 0 : 8)};
                one.rule.src[0] = one.rule.src_length ? 10 : 0;
                one.rule.src_port_last = one.rule.dst_port_last = 65535;
            } else if (dice(2)) {
                one.verb = FP_ACL_DELETE;
            }
            if (fp_acl_apply(acl, &one, 1) && one.result == FP_ACL_ID_UNKNOWN) {
                one.verb = FP_ACL_INSERT;
                fp_acl_apply(acl, &one, 1);
            }
            if (one.result)
                fail("a change beside readers", FP_ACL_OK, one.result);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - start.tv_sec) + 1e-9 * (double)(now.tv_nsec - start.tv_nsec) < seconds);
}

static int threads(double seconds)
{
    struct fp_acl *acl = fp_acl_new(CAPACITY);
    pthread_t readers[2];
    size_t bad;

    fp_acl_use(acl, FP_ACL_SCALAR); /* vector code reads past the ends of leaves, which would be reported */
    for (uint32_t i = 0; i < 1000; i++)
        draw_rule(&model[i], i);
    model[0] = model[2] = (struct fp_acl_rule){.version = 4, .src_port_last = 65535, .dst_port_last = 65535};
    model[2].id = 2;
    model[2].priority = 5000;
    if (fp_acl_compile(acl, model, 1000, &bad))
        fail("compile", 1000, (uint32_t)bad);
    for (int i = 0; i < 2; i++)
        pthread_create(&readers[i], NULL, read_on, acl);
    write_on(acl, seconds);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    fp_acl_free(acl);
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 5 && !strcmp(arguments[1], "agree")) {
        state = strtoull(arguments[4], NULL, 10);
        return agree((uint32_t)atoi(arguments[2]), (uint32_t)atoi(arguments[3]));
    }
    if (count == 3 && !strcmp(arguments[1], "threads"))
        return threads(atof(arguments[2]));
    return 2;
}
