/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules and keys: what is wrong with a rule, which box it is, and the key of a packet.
 */
#include "fp_acl_internal.h"

#include <string.h>

enum {
    PROTOCOL_UNKNOWN = 255,
};

static uint32_t fp_word(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint32_t fp_prefix_mask(int length)
{
    if (length <= 0)
        return 0;
    return length >= 32 ? 0xffffffffu : ~(0xffffffffu >> length);
}

static int fp_any_ports(const struct fp_acl_rule *rule)
{
    return !rule->src_port_first && rule->src_port_last == 0xffff && !rule->dst_port_first &&
           rule->dst_port_last == 0xffff;
}

static int fp_has_icmp(const struct fp_acl_rule *rule)
{
    return rule->fields & (FP_ACL_HAS_ICMP_TYPE | FP_ACL_HAS_ICMP_CODE);
}

static uint64_t fp_dscp_set(const struct fp_acl_rule *rule)
{
    return rule->dscp ? rule->dscp : ~(uint64_t)0;
}

static uint8_t fp_fragment_set(const struct fp_acl_rule *rule)
{
    return rule->fragments ? rule->fragments : 7;
}

/* Return the classes of keys that the rule can match: a condition on a header
 * holds only where there is that header. */
static uint32_t fp_classes(const struct fp_acl_rule *rule)
{
    uint32_t classes = FP_ACL_ALL_CLASSES;

    if (rule->version == 4)
        classes &= FP_ACL_IPV4_CLASSES;
    if (rule->version == 6)
        classes &= FP_ACL_IPV6_CLASSES;
    if (rule->protocol_mask || ~fp_dscp_set(rule) || fp_fragment_set(rule) != 7)
        classes &= ~(uint32_t)FP_ACL_NOT_IP;
    if (!fp_any_ports(rule))
        classes &= FP_ACL_IPV4_PORTS | FP_ACL_IPV6_PORTS;
    if (fp_has_icmp(rule))
        classes &= FP_ACL_IPV4_ICMP | FP_ACL_IPV6_ICMP;
    return classes;
}

static int fp_bad_prefix(const uint8_t *address, int length, int version)
{
    uint32_t rest = 0;

    if (length > (version == 6 ? 128 : version == 4 ? 32 : 0))
        return 1;
    for (int i = 0; i < 4; i++)
        rest |= fp_word(address + 4 * i) & ~fp_prefix_mask(length - 32 * i);
    return rest != 0;
}

enum fp_acl_error fp_acl_check(const struct fp_acl_rule *rule)
{
    if (rule->id > FP_ACL_MAX_ID)
        return FP_ACL_ID_TOO_LARGE;
    if (rule->version != 0 && rule->version != 4 && rule->version != 6)
        return FP_ACL_BAD_VALUE;
    if (rule->direction > 1 || rule->fragments > 7 || rule->protocol & ~rule->protocol_mask || rule->fields > 63)
        return FP_ACL_BAD_VALUE;
    if (fp_bad_prefix(rule->src, rule->src_length, rule->version) ||
        fp_bad_prefix(rule->dst, rule->dst_length, rule->version))
        return FP_ACL_BAD_PREFIX;
    if (rule->src_port_first > rule->src_port_last || rule->dst_port_first > rule->dst_port_last)
        return FP_ACL_BAD_RANGE;
    return fp_classes(rule) ? FP_ACL_OK : FP_ACL_NEVER_MATCHES;
}

int fp_acl_has_conditions(const struct fp_acl_rule *rule)
{
    return rule->fields & ~(FP_ACL_HAS_ICMP_TYPE | FP_ACL_HAS_ICMP_CODE) || ~fp_dscp_set(rule) ||
           fp_fragment_set(rule) != 7 || (rule->protocol_mask && rule->protocol_mask != 0xff) ||
           rule->src_length > 32 || rule->dst_length > 32;
}

static uint32_t fp_shift(int length)
{
    return length >= 32 ? 0 : 32 - (uint32_t)length;
}

static void fp_ports(const struct fp_acl_rule *rule, uint16_t ports[4])
{
    uint16_t src_last = rule->src_port_last, dst_last = rule->dst_port_last;

    ports[0] = rule->src_port_first;
    ports[1] = rule->dst_port_first;
    if (rule->fields & FP_ACL_HAS_ICMP_TYPE)
        ports[0] = src_last = rule->icmp_type;
    if (rule->fields & FP_ACL_HAS_ICMP_CODE)
        ports[1] = dst_last = rule->icmp_code;
    ports[2] = (uint16_t)(src_last - ports[0]);
    ports[3] = (uint16_t)(dst_last - ports[1]);
}

/* Fill in all but the name and where the conditions are; "rest" is what they are. */
void fp_acl_describe(const struct fp_acl_rule *rule, struct fp_acl_item *item, struct fp_acl_conditions *rest)
{
    int exact = rule->protocol_mask == 0xff;

    memset(rest, 0, sizeof *rest);
    rest->dscp = fp_dscp_set(rule);
    rest->network = rule->network;
    rest->port = rule->port;
    rest->eth_type = rule->eth_type;
    rest->src_length = rule->src_length;
    rest->dst_length = rule->dst_length;
    rest->fields = rule->fields;
    rest->direction = rule->direction;
    rest->protocol = rule->protocol;
    rest->protocol_mask = rule->protocol_mask;
    rest->fragments = fp_fragment_set(rule);
    for (int i = 0; i < 3; i++) {
        rest->src_rest[i] = fp_word(rule->src + 4 * (i + 1));
        rest->dst_rest[i] = fp_word(rule->dst + 4 * (i + 1));
    }
    item->src = fp_word(rule->src);
    item->dst = fp_word(rule->dst);
    fp_ports(rule, item->ports);
    item->meta = fp_shift(rule->src_length) << FP_ACL_META_SRC | fp_shift(rule->dst_length) << FP_ACL_META_DST |
                 (uint32_t)(exact ? rule->protocol : 0) << FP_ACL_META_PROTOCOL |
                 fp_classes(rule) << FP_ACL_META_CLASSES | (exact ? 0 : FP_ACL_META_ANY_PROTOCOL);
    item->priority = rule->priority;
    item->conditions = 0;
    item->name = 0;
    fp_acl_bound(item, fp_acl_has_conditions(rule) ? rest : NULL);
}

static void fp_bound(struct fp_acl_item *item, int word, uint32_t low, uint32_t high)
{
    item->low[word] = low;
    item->high[word] = high;
}

static void fp_bound_prefix(struct fp_acl_item *item, int word, uint32_t value, int length)
{
    fp_bound(item, word, value, value | ~fp_prefix_mask(length));
}

/* Fill in the box from the rest of the item and its conditions (or NULL). */
void fp_acl_bound(struct fp_acl_item *item, const struct fp_acl_conditions *rest)
{
    uint32_t protocol = item->meta >> FP_ACL_META_PROTOCOL & 0xff;
    int any_protocol = (item->meta & FP_ACL_META_ANY_PROTOCOL) != 0;

    for (int i = 0; i < FP_ACL_WORDS; i++)
        fp_bound(item, i, 0, 0xffffffffu);
    fp_bound_prefix(item, FP_ACL_SRC, item->src, 32 - (int)(item->meta >> FP_ACL_META_SRC & 63));
    fp_bound_prefix(item, FP_ACL_DST, item->dst, 32 - (int)(item->meta >> FP_ACL_META_DST & 63));
    fp_bound(item, FP_ACL_SRC_PORT, item->ports[0], (uint32_t)item->ports[0] + item->ports[2]);
    fp_bound(item, FP_ACL_DST_PORT, item->ports[1], (uint32_t)item->ports[1] + item->ports[3]);
    fp_bound(item, FP_ACL_PROTOCOL, any_protocol ? 0 : protocol, any_protocol ? 0xff : protocol);
    if (!rest)
        return;
    if (rest->fields & FP_ACL_HAS_NETWORK)
        fp_bound(item, FP_ACL_NETWORK, rest->network, rest->network);
    if (rest->fields & FP_ACL_HAS_PORT)
        fp_bound(item, FP_ACL_PORT, rest->port, rest->port);
    if (rest->fields & FP_ACL_HAS_ETH_TYPE)
        fp_bound(item, FP_ACL_MISC, (uint32_t)rest->eth_type << 16, (uint32_t)rest->eth_type << 16 | 0xffff);
    for (int i = 0; i < 3; i++) {
        fp_bound_prefix(item, FP_ACL_SRC_REST + i, rest->src_rest[i], rest->src_length - 32 * (i + 1));
        fp_bound_prefix(item, FP_ACL_DST_REST + i, rest->dst_rest[i], rest->dst_length - 32 * (i + 1));
    }
}

static uint32_t fp_class_of(const struct fp_flow_key *flow)
{
    uint32_t ports = flow->layers & (FP_LAYER_TCP | FP_LAYER_UDP);

    if (flow->layers & FP_LAYER_IPV4)
        return ports ? FP_ACL_IPV4_PORTS : flow->layers & FP_LAYER_ICMP ? FP_ACL_IPV4_ICMP : FP_ACL_IPV4_OTHER;
    if (flow->layers & FP_LAYER_IPV6)
        return ports ? FP_ACL_IPV6_PORTS : flow->layers & FP_LAYER_ICMPV6 ? FP_ACL_IPV6_ICMP : FP_ACL_IPV6_OTHER;
    return FP_ACL_NOT_IP;
}

void fp_acl_key_of(const struct fp_flow_key *flow, const struct fp_acl_place *place, struct fp_acl_key *key)
{
    uint32_t class = fp_class_of(flow);
    uint32_t protocol = flow->l4_offset || class == FP_ACL_NOT_IP ? flow->protocol : PROTOCOL_UNKNOWN;
    int icmp = class == FP_ACL_IPV4_ICMP || class == FP_ACL_IPV6_ICMP;

    memset(key, 0, sizeof *key);
    if (class != FP_ACL_NOT_IP) { /* an ARP packet has addresses as well, but rules on them mean IP */
        key->word[FP_ACL_SRC] = fp_word(flow->src);
        key->word[FP_ACL_DST] = fp_word(flow->dst);
        for (int i = 0; i < 3; i++) {
            key->word[FP_ACL_SRC_REST + i] = fp_word(flow->src + 4 * (i + 1));
            key->word[FP_ACL_DST_REST + i] = fp_word(flow->dst + 4 * (i + 1));
        }
    }
    key->word[FP_ACL_SRC_PORT] = icmp ? flow->icmp_type : flow->src_port;
    key->word[FP_ACL_DST_PORT] = icmp ? flow->icmp_code : flow->dst_port;
    key->word[FP_ACL_PROTOCOL] = protocol | class << 8;
    key->word[FP_ACL_NETWORK] = place->network;
    key->word[FP_ACL_PORT] = place->port;
    key->word[FP_ACL_MISC] = (uint32_t)flow->eth_type << 16 | (place->direction & 1) << 8 |
                             (uint32_t)(flow->tos >> 2) << 2 | flow->fragment;
}
