/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Both licences for the same reason as in fp_packet.h: the lookup is to run in
 * the kernel as well.
 *
 * Which rule does a packet match?
 * ===============================
 *
 * A classifier holds up to 100,000 rules and more.  A rule is a box: an interval
 * for each field of a key (a prefix is an interval, so is one value), plus sets
 * of values for DSCP, fragments and packet classes.  Of the rules that match,
 * the one with the highest priority wins; of equals the one with the lower id.
 *
 * Goals, the first wins:
 *
 *   1. The answer is that of reading all rules one after the other, for each key,
 *      also while rules change: of a change a lookup sees nothing or all.
 *   2. Readers take no lock, allocate nothing, make no system call and never wait
 *      for a writer.
 *   3. Lookups per second, on one core, of batches of keys.
 *   4. Memory: at most 32 bytes a rule and 1 MiB (IPv4 five-tuples; see below).
 *   5. More than a million changes per second, of single rules.
 *
 * The structure: a forest of cuts
 * -------------------------------
 *
 * Two ways are known.  Decision trees cut the space of keys until few rules are
 * left; a rule that lies on both sides of a cut has to be in both, and wide rules
 * make them explode.  Tuple spaces hash over masks; they never copy a rule, but
 * ask one table for each of many masks.  This is a tree that does not explode:
 * what a cut would copy more than "kick" times is kicked out, into the next tree
 * of the forest (KickTree, 2022, has the idea).  Few rules are left
 * for the third tree, and most sets need three to six.
 *
 *   - A node takes "width" neighbouring bits of one word of the key as an index
 *     into an array of references.  The bits may lie anywhere, not only behind
 *     those already used: where all addresses are in 10.0.0.0/8 the first 8 bits
 *     say nothing and no node is spent on them (BitCuts, 2017, has the idea).
 *   - A leaf holds up to 31 rules by falling priority, as arrays of fields, not as
 *     an array of rules: SIMD compares 8 or 16 of them with the key at once, so
 *     that a leaf costs the same whether it has one rule or eight.  In the order
 *     of priority, the first bit of the mask is the answer.
 *   - A reference is 32 bits: where (in 16-byte units), and what is there (which
 *     word, shift and width, or: a leaf and its number of rules).  So a step down
 *     needs one load, and the whole image has no pointer in it.
 *   - Trees are ordered by the highest priority in them; a key that has found a
 *     higher one skips them.
 *   - Keys go down together, FP_ACL_CHUNK at a time, one level after the other, and what
 *     they will need is prefetched: it is memory latency that limits large sets.
 *     The lists of keys that go on are kept without branches.
 *   - Whatever cannot be told apart by cuts ends in trees that are one leaf each:
 *     at worst, the search is a linear one, of 8 or 16 rules at a time.
 *
 * The cut of a node is the one for which a key that was drawn from the node's
 * rules meets the fewest others in its child, less a price for copies, kicks and
 * memory.  How eagerly is tried out: a compilation builds the forest in several
 * ways, walks some keys of each rule down, and keeps the one whose walk is
 * cheapest and that is within the memory goal.
 *
 * Changes
 * -------
 *
 * Leaves never change.  An insertion writes new ones beside the old, in the tree
 * where these are fewest, and replaces the references, each by one atomic store.  A leaf that grows too large is cut.  A rule that fits into
 * no tree goes into a new one.  A deletion only takes back the rule's
 * generation: copies in leaves carry the one they were made with and count only
 * if it is (one of the two that are) valid.  A modification writes the new
 * version, allows both for as long as a reader may be halfway, and ends the old.
 *
 * When so much was changed that the forest got bad or full of dead copies, the
 * next change compiles it anew and swaps.
 *
 * A reader announces the epoch in which it began, in a slot that is its own; memory
 * that was taken away in that epoch or later is not used again before it has ended.
 *
 * Memory
 * ------
 *
 * A rule takes 28 bytes in a leaf, and 5 in tables by id.  Rules on other
 * fields than the five-tuple, and on more than 32 bits of an IPv6 address, take 68 more.
 * What the nodes and copies add is chosen so that five-tuples stay within the goal.
 *
 * Threads
 * -------
 *
 * One reader (fp_acl_open_reader) is for one thread at a time.  There may be
 * FP_ACL_MAX_READERS.  Of all functions that change something, one may run at a
 * time; they may run beside all readers.
 *
 * Numbers are in host byte order, addresses are bytes in network order.
 */
#ifndef FP_ACL_H
#define FP_ACL_H

#include "fp_packet.h"

/* cffi: begin */
#define FP_ACL_NONE 0xffffffff
#define FP_ACL_MAX_ID 0x00fffffe
#define FP_ACL_MAX_READERS 64

/* What can be wrong with a rule, and with a change. */
enum fp_acl_error {
    FP_ACL_OK = 0,
    FP_ACL_NO_MEMORY = 1,
    FP_ACL_ID_TOO_LARGE = 2,      /* not below the classifier's capacity */
    FP_ACL_ID_TAKEN = 3,          /* a rule with it is there, or twice in one set */
    FP_ACL_ID_UNKNOWN = 4,        /* no rule with it is there */
    FP_ACL_BAD_PREFIX = 5,        /* too long, without a version, or bits behind its length */
    FP_ACL_BAD_RANGE = 6,         /* first above last */
    FP_ACL_BAD_VALUE = 7,         /* no such version, direction, DSCP or fragment; a bit outside of the mask */
    FP_ACL_NEVER_MATCHES = 8,     /* no packet has all that it asks for */
    FP_ACL_BAD_VERB = 9,
    FP_ACL_TOO_MANY_READERS = 10,
    FP_ACL_NO_FRAME = 11,         /* a frame reaches out of the buffer */
    FP_ACL_TOO_MANY_RULES = 12,   /* that cannot be told apart */
};

/* Words of a key.  IPv4 addresses are in the first word of their address. */
enum fp_acl_word {
    FP_ACL_SRC = 0,
    FP_ACL_DST = 1,
    FP_ACL_SRC_PORT = 2,    /* or ICMP type */
    FP_ACL_DST_PORT = 3,    /* or ICMP code */
    FP_ACL_PROTOCOL = 4,    /* bits 0-7 the protocol (255: unknown), from bit 8 on the class (enum fp_acl_class) */
    FP_ACL_NETWORK = 5,
    FP_ACL_PORT = 6,
    FP_ACL_MISC = 7,        /* EtherType << 16 | direction << 8 | DSCP << 2 | enum fp_fragment */
    FP_ACL_SRC_REST = 8,    /* the other 3 words of an IPv6 address */
    FP_ACL_DST_REST = 11,
    FP_ACL_WORDS = 14,
};

/* Each key has one of them. */
enum fp_acl_class {
    FP_ACL_IPV4_PORTS = 1,  /* TCP or UDP with a header that could be read */
    FP_ACL_IPV4_ICMP = 2,
    FP_ACL_IPV4_OTHER = 4,  /* also later fragments */
    FP_ACL_IPV6_PORTS = 8,
    FP_ACL_IPV6_ICMP = 16,
    FP_ACL_IPV6_OTHER = 32,
    FP_ACL_NOT_IP = 64,
};

struct fp_acl_key {
    uint32_t word[16]; /* enum fp_acl_word; the last two are zero */
};

/* Which conditions a rule has, of those that have no value for "any". */
enum fp_acl_field {
    FP_ACL_HAS_NETWORK = 1,
    FP_ACL_HAS_PORT = 2,
    FP_ACL_HAS_ETH_TYPE = 4,
    FP_ACL_HAS_DIRECTION = 8,
    FP_ACL_HAS_ICMP_TYPE = 16,
    FP_ACL_HAS_ICMP_CODE = 32,
};

struct fp_acl_rule {
    uint64_t dscp;          /* bit n: DSCP n matches; all bits, or 0: any */
    uint32_t id;            /* below the classifier's capacity */
    uint32_t priority;      /* the highest wins */
    uint32_t network;
    uint32_t port;
    uint8_t src[16];        /* IPv4 in the first 4 bytes; zero behind the prefix */
    uint8_t dst[16];
    uint16_t src_port_first;
    uint16_t src_port_last; /* inclusive; 0 to 65535 is any, also packets without ports */
    uint16_t dst_port_first;
    uint16_t dst_port_last;
    uint16_t eth_type;
    uint8_t fields;         /* enum fp_acl_field */
    uint8_t version;        /* 4, 6, or 0: any packet, IP or not */
    uint8_t src_length;     /* of the prefix, bits */
    uint8_t dst_length;
    uint8_t protocol;
    uint8_t protocol_mask;  /* 0: any */
    uint8_t direction;      /* 0 or 1 */
    uint8_t icmp_type;
    uint8_t icmp_code;
    uint8_t fragments;      /* bit n: enum fp_fragment n matches; 7, or 0: any */
};

enum fp_acl_verb {
    FP_ACL_INSERT = 1,
    FP_ACL_MODIFY = 2,
    FP_ACL_DELETE = 3, /* only the id of the rule counts */
};

struct fp_acl_change {
    struct fp_acl_rule rule;
    uint32_t verb;     /* enum fp_acl_verb */
    uint32_t result;   /* out: enum fp_acl_error */
};

/* Where the packets of a batch are; network and port are the caller's numbers. */
struct fp_acl_place {
    uint32_t network;
    uint32_t port;
    uint32_t direction; /* 0 or 1 */
};

struct fp_acl_statistics {
    uint64_t rules;
    uint64_t memory;       /* bytes in use: image, tables by id, and what waits for readers */
    uint64_t copies;       /* of rules in leaves, when it was compiled */
    uint64_t trees;
    uint64_t compilations;
    double levels;         /* nodes that a key drawn from the rules passes, when compiled */
    double leaves;         /* leaves that it reads */
};

struct fp_acl;

/* Which code compares: the best that this processor has, unless told otherwise. */
enum fp_acl_simd {
    FP_ACL_BEST = 0,
    FP_ACL_SCALAR = 1,
    FP_ACL_AVX2 = 2,
    FP_ACL_AVX512 = 3,
};

/* Return an empty classifier for rules with ids below "capacity" (at most
 * FP_ACL_MAX_ID + 1), NULL if there is no memory. */
struct fp_acl *fp_acl_new(uint32_t capacity);
void fp_acl_free(struct fp_acl *acl);

/* Choose the code of all lookups that begin later; return what was chosen. */
enum fp_acl_simd fp_acl_use(struct fp_acl *acl, enum fp_acl_simd simd);

/* Replace all rules by these, for each lookup at once.  Nothing changes on an
 * error; then *bad is the index of the rule that it is about. */
enum fp_acl_error fp_acl_compile(struct fp_acl *acl, const struct fp_acl_rule *rules, size_t count, size_t *bad);

/* Make the changes one after the other, each at once for all lookups, and write
 * each one's result.  Return how many failed; those have changed nothing. */
size_t fp_acl_apply(struct fp_acl *acl, struct fp_acl_change *changes, size_t count);

/* Return the number of a new reader, FP_ACL_MAX_READERS if there are too many. */
uint32_t fp_acl_open_reader(struct fp_acl *acl);
void fp_acl_close_reader(struct fp_acl *acl, uint32_t reader);

/* Write the id of the rule that matches keys[i], or FP_ACL_NONE, to ids[i]. */
void fp_acl_classify(struct fp_acl *acl, uint32_t reader, const struct fp_acl_key *keys, size_t count, uint32_t *ids);

/* The same for frames as fp_parse_batch() takes them.  Writes nothing on an error. */
enum fp_acl_error fp_acl_classify_frames(struct fp_acl *acl, uint32_t reader, const uint8_t *buffer, size_t size,
                                         const struct fp_frame *frames, size_t count,
                                         const struct fp_acl_place *place, uint32_t *ids);

/* Write the ids of the rules that match, the winner first, then who would win
 * without it, and so on; at most "most".  Return how many were written. */
size_t fp_acl_explain(struct fp_acl *acl, uint32_t reader, const struct fp_acl_key *key, uint32_t *ids, size_t most);

/* Make a key of a parsed packet. */
void fp_acl_key_of(const struct fp_flow_key *flow, const struct fp_acl_place *place, struct fp_acl_key *key);

/* Say what is wrong with a rule by itself, FP_ACL_OK if nothing is. */
enum fp_acl_error fp_acl_check(const struct fp_acl_rule *rule);

void fp_acl_measure(struct fp_acl *acl, struct fp_acl_statistics *statistics);
/* cffi: end */

#endif /* FP_ACL_H */
