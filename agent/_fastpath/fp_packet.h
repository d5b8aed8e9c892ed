/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Both licences are named because this file and fp_packet.c are to be compiled
 * into BPF programs as well: the kernel lets only programs under a licence that
 * is compatible with its own call certain helpers.  Everything else in this
 * repository is Apache-2.0.
 *
 * Packet headers to flow keys
 * ===========================
 *
 * fp_parse() reads the headers of one Ethernet frame and fills in a flow key:
 * everything by which later code may tell packets apart (rate limits, QoS
 * classes, "trace").  fp_parse_batch() does so for many frames in one buffer.
 *
 * Goals, the first wins:
 *
 *   1. No byte outside the frame is read, whatever the frame says.
 *   2. One answer: a frame has one key and one result, always the same, and
 *      reference.py gives the same one.  A tenant cannot make two readers of a
 *      packet disagree about where its ports are.
 *   3. The same source runs in the kernel (clang -target bpf -ffreestanding, the
 *      program includes fp_packet.c): no allocation, no system call, no libc,
 *      every loop bounded, structures flat and without implicit padding.
 *   4. Speed: one pass, no copy of the payload.
 *
 * The result
 * ----------
 *
 * FP_VALID      every header that we know was there and made sense.
 * FP_TRUNCATED  a byte that the key depends on lies behind the end of what we
 *               were given.  That is no verdict on the packet: give more bytes
 *               and ask again.
 * FP_MALFORMED  the headers contradict themselves (a version, a length, a
 *               header that reaches over the end that the packet declares).
 *               More bytes never change that.
 *
 * So a prefix of a frame yields FP_TRUNCATED or exactly what the whole frame
 * yields, key included.  Payload may be missing (a socket buffer in the kernel
 * shows only its linear part): that is not truncation, because no key depends
 * on it.  Bytes behind the declared end (Ethernet padding) are never read.
 *
 * The key is meaningful for every result.  "layers" says which headers it
 * holds; a header is in it completely or not at all, and the fields of absent
 * headers are zero.  What stands behind IPv6 extension headers (protocol,
 * fragment) is known if l4_offset is not zero.  What is not FP_VALID has no trustworthy ports: a
 * classifier must treat it as "some packet of this network layer" or drop it.
 *
 * Decisions where the standards leave room
 * ----------------------------------------
 *
 *   - VLAN: up to FP_MAX_VLAN_TAGS tags with TPID 0x8100 or 0x88a8, in any
 *     order; more are malformed.  The key has the outermost tag and the count.
 *   - An EtherType below 0x0600 is an IEEE 802.3 length; nothing behind it is
 *     read.
 *   - ARP: Ethernet and IPv4 only, all else is malformed.  RARP is only its
 *     EtherType.
 *   - IPv4 options are skipped, checksums are never verified.
 *   - Fragments: the first one has ports, later ones have none.  A first
 *     fragment that does not hold the transport header is malformed (RFC 1858,
 *     RFC 7112): else it would get past rules on ports.  An IPv6 fragment header
 *     with offset 0 and no more fragments is no fragmentation (RFC 6946).
 *   - IPv6 extension headers that are walked: hop-by-hop (only first), routing,
 *     destination options, AH, and one fragment header; at most
 *     FP_MAX_EXTENSIONS in all.  Any other next header is the protocol.
 *   - IPv6 payload length 0 with a hop-by-hop header is a jumbogram (RFC 2675);
 *     its end is not checked.
 *   - TCP flags are the 12 bits beside the data offset.  TCP options are not
 *     read, but they must fit.
 *   - UDP length must be at least 8 and, outside of fragments and jumbograms,
 *     fit into the packet.
 *   - A neighbour solicitation or advertisement with code 0 must hold its
 *     target address.  The hop limit is in the key, not judged here.
 *
 * Threads: the functions are pure; concurrent calls need separate outputs.
 * Sizes and offsets are in bytes.  Numbers in the key are in host byte order,
 * addresses are bytes in network order.
 */
#ifndef FP_PACKET_H
#define FP_PACKET_H

#include <stddef.h>
#include <stdint.h>

/* The lines between the two marks are also read by cffi (build_backend.py):
 * plain declarations only. */
/* cffi: begin */
#define FP_MAX_VLAN_TAGS 4
#define FP_MAX_EXTENSIONS 8

enum fp_result {
    FP_VALID = 0,
    FP_TRUNCATED = 1,
    FP_MALFORMED = 2,
};

/* Bits of fp_flow_key.layers. */
enum fp_layer {
    FP_LAYER_ETHERNET = 1,
    FP_LAYER_VLAN = 2,
    FP_LAYER_ARP = 4,
    FP_LAYER_IPV4 = 8,
    FP_LAYER_IPV6 = 16,
    FP_LAYER_TCP = 32,
    FP_LAYER_UDP = 64,
    FP_LAYER_ICMP = 128,
    FP_LAYER_ICMPV6 = 256,
    FP_LAYER_ND = 512, /* neighbour solicitation or advertisement */
};

enum fp_fragment {
    FP_FRAGMENT_NONE = 0,
    FP_FRAGMENT_FIRST = 1,
    FP_FRAGMENT_LATER = 2, /* no transport header */
};

/* The first 64 bytes are what rules match on: one cache line. */
struct fp_flow_key {
    uint8_t src[16];       /* IPv6, or IPv4 or ARP sender in the first 4 bytes */
    uint8_t dst[16];       /* IPv6, or IPv4 or ARP target in the first 4 bytes */
    uint8_t eth_dst[6];
    uint8_t eth_src[6];
    uint16_t eth_type;     /* behind the VLAN tags; below 0x0600: an 802.3 length */
    uint16_t vlan_tci;     /* outermost tag: priority, DEI, VLAN id */
    uint16_t src_port;     /* TCP or UDP */
    uint16_t dst_port;     /* TCP or UDP */
    uint16_t layers;       /* enum fp_layer */
    uint16_t tcp_flags;    /* 12 bits, FIN is 1 */
    uint8_t protocol;      /* of IP, behind the extension headers; of a later fragment as its header says */
    uint8_t tos;           /* DSCP and ECN */
    uint8_t ttl;           /* or hop limit */
    uint8_t fragment;      /* enum fp_fragment */
    uint8_t vlan_count;
    uint8_t icmp_type;     /* ICMP or ICMPv6 */
    uint8_t icmp_code;     /* ICMP or ICMPv6 */
    uint8_t reserved0;     /* zero */
    uint8_t nd_target[16];
    uint8_t arp_sha[6];    /* sender hardware address */
    uint8_t arp_tha[6];    /* target hardware address */
    uint16_t arp_op;
    uint16_t vlan_tpid;    /* outermost tag */
    uint16_t l3_offset;    /* of what the EtherType names; 0 where Ethernet or a tag is not valid */
    uint16_t l4_offset;    /* behind IP and its extension headers; 0 where IP or one of them is not valid */
    uint32_t reserved1;    /* zero */
};

/* Where a frame lies in a buffer. */
struct fp_frame {
    uint32_t offset;
    uint32_t size;
};

/* Parse the frame of "size" bytes at "data" into "key", which is overwritten
 * completely.  "data" may be NULL if "size" is 0.  Never fails. */
enum fp_result fp_parse(const uint8_t *data, size_t size, struct fp_flow_key *key);

/* Parse "count" frames that lie anywhere in the "size" bytes at "buffer"; they
 * may overlap.  "buffer" is not NULL.  Fills in keys[i] and results[i] (enum fp_result) for frames[i].
 *
 * Returns 0, or EINVAL if a frame reaches out of the buffer; then nothing
 * has been written. */
int fp_parse_batch(const uint8_t *buffer, size_t size, const struct fp_frame *frames, size_t count,
                   struct fp_flow_key *keys, uint8_t *results);
/* cffi: end */

#endif /* FP_PACKET_H */
