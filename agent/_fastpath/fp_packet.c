/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The design and every decision are described in fp_packet.h.
 */
#include "fp_packet.h"

#ifndef __bpf__
#include <errno.h>
#endif

_Static_assert(sizeof(struct fp_flow_key) == 104, "no implicit padding: keys are compared and hashed as bytes");
_Static_assert(offsetof(struct fp_flow_key, nd_target) == 64, "what rules match on is one cache line");

#define FP_INLINE static inline __attribute__((always_inline))

enum {
    ETH_TYPE_MIN = 0x0600,
    ETH_TYPE_IPV4 = 0x0800,
    ETH_TYPE_ARP = 0x0806,
    ETH_TYPE_VLAN = 0x8100,
    ETH_TYPE_IPV6 = 0x86dd,
    ETH_TYPE_SERVICE_VLAN = 0x88a8,

    PROTO_HOP_BY_HOP = 0,
    PROTO_ICMP = 1,
    PROTO_TCP = 6,
    PROTO_UDP = 17,
    PROTO_ROUTING = 43,
    PROTO_FRAGMENT = 44,
    PROTO_AH = 51,
    PROTO_ICMPV6 = 58,
    PROTO_DESTINATION_OPTIONS = 60,

    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,

    ETHERNET_SIZE = 14,
    VLAN_TAG_SIZE = 4,
    ARP_SIZE = 28,
    IPV4_SIZE = 20,
    IPV6_SIZE = 40,
    IPV6_EXTENSION_SIZE = 8, /* the smallest */
    TCP_SIZE = 20,
    UDP_SIZE = 8,
    ICMP_SIZE = 8,
    ICMPV6_SIZE = 4,
    ND_SIZE = 24,
};

/* Behind any header that we can reach: Ethernet, tags, IPv6 and the largest
 * extension headers together end before it.  The BPF verifier needs the bound. */
#define FP_MAX_OFFSET 0x7fffu

/* What a packet declares to be its end, if it declares nothing. */
#define FP_NO_END 0xffffffffu

/* The bytes that we were given. */
struct fp_view {
    const uint8_t *start;
    const uint8_t *end;
};

/* Return the "size" bytes at "offset", or NULL where not all of them were given. */
FP_INLINE const uint8_t *fp_at(const struct fp_view *view, uint32_t offset, uint32_t size)
{
#ifdef __bpf__
    /* The verifier understands only a comparison of packet pointers. */
    const uint8_t *bytes = view->start + (offset & FP_MAX_OFFSET);

    return offset <= FP_MAX_OFFSET && bytes + size <= view->end ? bytes : (const uint8_t *)0;
#else
    size_t given = (size_t)(view->end - view->start);

    return offset <= given && size <= given - offset ? view->start + offset : (const uint8_t *)0;
#endif
}

FP_INLINE uint16_t fp_be16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

FP_INLINE enum fp_result fp_parse_tcp(const struct fp_view *view, uint32_t offset, uint32_t end,
                                      struct fp_flow_key *key)
{
    const uint8_t *tcp = fp_at(view, offset, TCP_SIZE);
    uint32_t size;

    if (end - offset < TCP_SIZE)
        return FP_MALFORMED;
    if (!tcp)
        return FP_TRUNCATED;
    size = (uint32_t)(tcp[12] >> 4) * 4;
    if (size < TCP_SIZE || size > end - offset)
        return FP_MALFORMED;
    key->src_port = fp_be16(tcp);
    key->dst_port = fp_be16(tcp + 2);
    key->tcp_flags = fp_be16(tcp + 12) & 0x0fff;
    key->layers |= FP_LAYER_TCP;
    return FP_VALID;
}

FP_INLINE enum fp_result fp_parse_udp(const struct fp_view *view, uint32_t offset, uint32_t end,
                                      struct fp_flow_key *key)
{
    const uint8_t *udp = fp_at(view, offset, UDP_SIZE);
    uint32_t size;

    if (end - offset < UDP_SIZE)
        return FP_MALFORMED;
    if (!udp)
        return FP_TRUNCATED;
    size = fp_be16(udp + 4);
    if (end != FP_NO_END) {
        if (size < UDP_SIZE || (key->fragment == FP_FRAGMENT_NONE && size > end - offset))
            return FP_MALFORMED;
    } else if (size != 0 && size < UDP_SIZE) {
        return FP_MALFORMED; /* 0 is a jumbogram's way to say "to the end" */
    }
    key->src_port = fp_be16(udp);
    key->dst_port = fp_be16(udp + 2);
    key->layers |= FP_LAYER_UDP;
    return FP_VALID;
}

FP_INLINE enum fp_result fp_parse_icmp(const struct fp_view *view, uint32_t offset, uint32_t end,
                                       struct fp_flow_key *key)
{
    const uint8_t *icmp = fp_at(view, offset, 2);

    if (end - offset < ICMP_SIZE)
        return FP_MALFORMED;
    if (!icmp)
        return FP_TRUNCATED;
    key->icmp_type = icmp[0];
    key->icmp_code = icmp[1];
    key->layers |= FP_LAYER_ICMP;
    return FP_VALID;
}

FP_INLINE enum fp_result fp_parse_icmpv6(const struct fp_view *view, uint32_t offset, uint32_t end,
                                         struct fp_flow_key *key)
{
    const uint8_t *icmp = fp_at(view, offset, 2);
    const uint8_t *target;

    if (end - offset < ICMPV6_SIZE)
        return FP_MALFORMED;
    if (!icmp)
        return FP_TRUNCATED;
    key->icmp_type = icmp[0];
    key->icmp_code = icmp[1];
    key->layers |= FP_LAYER_ICMPV6;
    if (icmp[1] != 0 || (icmp[0] != ND_SOLICITATION && icmp[0] != ND_ADVERTISEMENT))
        return FP_VALID;

    if (end - offset < ND_SIZE)
        return FP_MALFORMED;
    target = fp_at(view, offset + 8, 16);
    if (!target)
        return FP_TRUNCATED;
    __builtin_memcpy(key->nd_target, target, 16);
    key->layers |= FP_LAYER_ND;
    return FP_VALID;
}

/* Parse the transport header at "offset" of a packet that declares to reach to
 * "end" ("offset" <= "end"); key->protocol and key->fragment are set. */
FP_INLINE enum fp_result fp_parse_transport(const struct fp_view *view, uint32_t offset, uint32_t end,
                                            struct fp_flow_key *key)
{
    key->l4_offset = (uint16_t)offset;
    if (key->fragment == FP_FRAGMENT_LATER)
        return FP_VALID;
    if (key->protocol == PROTO_TCP)
        return fp_parse_tcp(view, offset, end, key);
    if (key->protocol == PROTO_UDP)
        return fp_parse_udp(view, offset, end, key);
    if (key->protocol == PROTO_ICMP && key->layers & FP_LAYER_IPV4)
        return fp_parse_icmp(view, offset, end, key);
    if (key->protocol == PROTO_ICMPV6 && key->layers & FP_LAYER_IPV6)
        return fp_parse_icmpv6(view, offset, end, key);
    return FP_VALID;
}

FP_INLINE uint8_t fp_fragment(uint32_t fragment_offset, uint32_t more)
{
    if (fragment_offset)
        return FP_FRAGMENT_LATER;
    return more ? FP_FRAGMENT_FIRST : FP_FRAGMENT_NONE;
}

FP_INLINE enum fp_result fp_parse_ipv4(const struct fp_view *view, uint32_t offset, struct fp_flow_key *key)
{
    const uint8_t *ip = fp_at(view, offset, IPV4_SIZE);
    uint32_t header_size, total_size, fragment_word;

    if (!ip)
        return FP_TRUNCATED;
    header_size = (uint32_t)(ip[0] & 0x0f) * 4;
    total_size = fp_be16(ip + 2);
    if (ip[0] >> 4 != 4 || header_size < IPV4_SIZE || total_size < header_size)
        return FP_MALFORMED;
    fragment_word = fp_be16(ip + 6);
    key->tos = ip[1];
    key->ttl = ip[8];
    key->protocol = ip[9];
    key->fragment = fp_fragment(fragment_word & 0x1fff, fragment_word & 0x2000);
    __builtin_memcpy(key->src, ip + 12, 4);
    __builtin_memcpy(key->dst, ip + 16, 4);
    key->layers |= FP_LAYER_IPV4;
    return fp_parse_transport(view, offset + header_size, offset + total_size, key);
}

/* Where the walk over the extension headers stands. */
struct fp_walk {
    uint32_t offset; /* of the next header */
    uint32_t end;    /* of the packet, as it declares */
    uint8_t next;    /* protocol number of the header at "offset" */
    uint8_t fragment;
    uint8_t fragment_headers;
};

FP_INLINE int fp_is_extension(uint8_t protocol)
{
    return protocol == PROTO_HOP_BY_HOP || protocol == PROTO_ROUTING || protocol == PROTO_FRAGMENT ||
           protocol == PROTO_AH || protocol == PROTO_DESTINATION_OPTIONS;
}

/* Step over one extension header. */
FP_INLINE enum fp_result fp_step(const struct fp_view *view, struct fp_walk *walk)
{
    const uint8_t *header = fp_at(view, walk->offset, IPV6_EXTENSION_SIZE);
    uint32_t size;

    if (walk->end - walk->offset < IPV6_EXTENSION_SIZE)
        return FP_MALFORMED;
    if (!header)
        return FP_TRUNCATED;
    if (walk->next == PROTO_FRAGMENT) {
        uint32_t word = fp_be16(header + 2);

        if (walk->fragment_headers++)
            return FP_MALFORMED;
        walk->fragment = fp_fragment(word >> 3, word & 1);
        size = IPV6_EXTENSION_SIZE;
    } else if (walk->next == PROTO_AH) {
        size = (uint32_t)(header[1] + 2) * 4;
    } else {
        size = (uint32_t)(header[1] + 1) * 8;
    }
    if (size > walk->end - walk->offset)
        return FP_MALFORMED;
    walk->offset += size;
    walk->next = header[0];
    return FP_VALID;
}

FP_INLINE enum fp_result fp_parse_ipv6(const struct fp_view *view, uint32_t offset, struct fp_flow_key *key)
{
    const uint8_t *ip = fp_at(view, offset, IPV6_SIZE);
    struct fp_walk walk = {0};
    enum fp_result result;
    uint32_t payload_size;
    int i;

    if (!ip)
        return FP_TRUNCATED;
    if (ip[0] >> 4 != 6)
        return FP_MALFORMED;
    payload_size = fp_be16(ip + 4);
    key->tos = (uint8_t)(fp_be16(ip) >> 4);
    key->ttl = ip[7];
    __builtin_memcpy(key->src, ip + 8, 16);
    __builtin_memcpy(key->dst, ip + 24, 16);
    key->layers |= FP_LAYER_IPV6;

    walk.next = ip[6];
    walk.offset = offset + IPV6_SIZE;
    walk.end = walk.offset + payload_size;
    if (payload_size == 0 && walk.next == PROTO_HOP_BY_HOP)
        walk.end = FP_NO_END;
    for (i = 0; i < FP_MAX_EXTENSIONS; i++) {
        if (!fp_is_extension(walk.next) || walk.fragment == FP_FRAGMENT_LATER)
            break;
        if (i > 0 && walk.next == PROTO_HOP_BY_HOP)
            return FP_MALFORMED;
        result = fp_step(view, &walk);
        if (result != FP_VALID)
            return result;
    }
    if (fp_is_extension(walk.next) && walk.fragment != FP_FRAGMENT_LATER)
        return FP_MALFORMED; /* too many */
    key->protocol = walk.next;
    key->fragment = walk.fragment;
    return fp_parse_transport(view, walk.offset, walk.end, key);
}

FP_INLINE enum fp_result fp_parse_arp(const struct fp_view *view, uint32_t offset, struct fp_flow_key *key)
{
    const uint8_t *arp = fp_at(view, offset, ARP_SIZE);

    if (!arp)
        return FP_TRUNCATED;
    if (fp_be16(arp) != 1 || fp_be16(arp + 2) != ETH_TYPE_IPV4 || arp[4] != 6 || arp[5] != 4)
        return FP_MALFORMED;
    key->arp_op = fp_be16(arp + 6);
    __builtin_memcpy(key->arp_sha, arp + 8, 6);
    __builtin_memcpy(key->src, arp + 14, 4);
    __builtin_memcpy(key->arp_tha, arp + 18, 6);
    __builtin_memcpy(key->dst, arp + 24, 4);
    key->layers |= FP_LAYER_ARP;
    return FP_VALID;
}

FP_INLINE int fp_is_vlan(uint16_t eth_type)
{
    return eth_type == ETH_TYPE_VLAN || eth_type == ETH_TYPE_SERVICE_VLAN;
}

/* Step over the VLAN tags behind the Ethernet addresses: sets key->l3_offset
 * and key->eth_type.  The tags are in the key only if all of them were given. */
FP_INLINE enum fp_result fp_parse_vlan(const struct fp_view *view, uint16_t eth_type, struct fp_flow_key *key)
{
    uint32_t offset = ETHERNET_SIZE;
    uint16_t tpid = eth_type, tci = 0;
    uint8_t count = 0;
    int i;

    for (i = 0; i < FP_MAX_VLAN_TAGS; i++) {
        const uint8_t *tag;

        if (!fp_is_vlan(eth_type))
            break;
        tag = fp_at(view, offset, VLAN_TAG_SIZE);
        if (!tag)
            return FP_TRUNCATED;
        if (count++ == 0)
            tci = fp_be16(tag);
        eth_type = fp_be16(tag + 2);
        offset += VLAN_TAG_SIZE;
    }
    if (fp_is_vlan(eth_type))
        return FP_MALFORMED; /* too many */
    if (count) {
        key->vlan_tpid = tpid;
        key->vlan_tci = tci;
        key->vlan_count = count;
        key->layers |= FP_LAYER_VLAN;
    }
    key->eth_type = eth_type;
    key->l3_offset = (uint16_t)offset;
    return FP_VALID;
}

/* As fp_parse(), for the bytes from "start" up to "end": a BPF program has its
 * packet's end as a pointer, and must keep it as one. */
FP_INLINE enum fp_result fp_parse_range(const uint8_t *start, const uint8_t *end, struct fp_flow_key *key)
{
    struct fp_view view = {start, end};
    const uint8_t *ethernet = fp_at(&view, 0, ETHERNET_SIZE);
    enum fp_result result;

    /* In two steps: gcc makes plain stores of them, but a slow "rep stos" of one (31 instead of 17 ns a frame). */
    __builtin_memset(key, 0, 64);
    __builtin_memset((uint8_t *)key + 64, 0, sizeof *key - 64);
    if (!ethernet)
        return FP_TRUNCATED;
    __builtin_memcpy(key->eth_dst, ethernet, 6);
    __builtin_memcpy(key->eth_src, ethernet + 6, 6);
    key->layers = FP_LAYER_ETHERNET;
    result = fp_parse_vlan(&view, fp_be16(ethernet + 12), key);
    if (result != FP_VALID)
        return result;
    if (key->eth_type == ETH_TYPE_IPV4)
        return fp_parse_ipv4(&view, key->l3_offset, key);
    if (key->eth_type == ETH_TYPE_IPV6)
        return fp_parse_ipv6(&view, key->l3_offset, key);
    if (key->eth_type == ETH_TYPE_ARP)
        return fp_parse_arp(&view, key->l3_offset, key);
    return FP_VALID;
}

#ifndef __bpf__
enum fp_result fp_parse(const uint8_t *data, size_t size, struct fp_flow_key *key)
{
    return fp_parse_range(data, size ? data + size : data, key);
}

int fp_parse_batch(const uint8_t *buffer, size_t size, const struct fp_frame *frames, size_t count,
                   struct fp_flow_key *keys, uint8_t *results)
{
    size_t i;

    for (i = 0; i < count; i++)
        if (frames[i].offset > size || frames[i].size > size - frames[i].offset)
            return EINVAL;
    for (i = 0; i < count; i++)
        results[i] = (uint8_t)fp_parse(buffer + frames[i].offset, frames[i].size, &keys[i]);
    return 0;
}
#endif
