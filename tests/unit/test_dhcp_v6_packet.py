# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 on the wire: scapy builds what we read, and hand-made octets break every rule once."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp6 import (
    DUID_UUID,
    USER_CLASS_DATA,
    DHCP6_Renew,
    DHCP6_Solicit,
    DHCP6OptClientArchType,
    DHCP6OptClientFQDN,
    DHCP6OptClientId,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptUnknown,
    DHCP6OptUserClass,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether

from agent.dhcp import frames6, v6_packet
from agent.dhcp.frames import PacketError
from agent.dhcp.v6_packet import Association, Code, Lease, Message, MessageType
from tests.dhcp6_client import CLIENT_ID, GROUP, IDENTITY, LINK_LOCAL, MAC, SERVER_ID, ia_na, solicit, udp_frame

FRAME = udp_frame(solicit(23, 24))


def request(message) -> v6_packet.Request:
    return v6_packet.read_request(v6_packet.decode(bytes(message)))


def test_what_a_client_says_is_understood():
    message = (
        DHCP6_Renew(trid=0xABCDEF)
        / CLIENT_ID
        / SERVER_ID
        / ia_na("2001:db8::1", "2001:db8::2", iaid=5)
        / DHCP6OptIA_TA(iaid=6)
        / DHCP6OptIA_PD(iaid=7, T1=1, T2=2)
        / DHCP6OptOptReq(reqopts=[23, 59])
        / DHCP6OptRapidCommit()
        / DHCP6OptClientFQDN(flags="S", fqdn="a.b.")
        / DHCP6OptUserClass(userclassdata=[USER_CLASS_DATA(data=b"iPXE"), USER_CLASS_DATA(data=b"x")])
        / DHCP6OptClientArchType(archtypes=[7, 16])
    )
    found = request(message)

    assert (found.type, found.transaction) == (MessageType.RENEW, b"\xab\xcd\xef")
    assert (found.client_id, found.server_id) == (bytes(CLIENT_ID.duid), bytes(SERVER_ID.duid))
    addresses = (frames6.packed("2001:db8::1"), frames6.packed("2001:db8::2"))
    assert found.associations == (
        Association(Code.IA_NA, 5, leases=tuple(Lease(address, 60, 60) for address in addresses)),
        Association(Code.IA_TA, 6),
        Association(Code.IA_PD, 7, 1, 2),
    )
    assert (found.requested, found.rapid_commit, found.fqdn) == ((23, 59), True, 1)
    assert (found.user_classes, found.architectures) == ((b"iPXE", b"x"), (7, 16))


def test_what_nobody_has_said_is_none():
    found = request(DHCP6_Solicit(trid=1))

    assert (found.client_id, found.server_id, found.requested, found.fqdn) == (None, None, None, None)


@pytest.mark.parametrize("duid", [b"\0\1a", b"\0\2" + bytes(128), bytes(DUID_UUID(uuid="12345678" * 4))])
def test_identifiers_are_taken_as_they_are(duid):
    option = bytes((0, 1)) + len(duid).to_bytes(2) + duid

    assert request(b"\1abc" + option).client_id == duid


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "cut short"),
        (b"\1ab", "cut short"),
        (b"\1abc\0", "cut short"),
        (b"\1abc\0\1\0", "cut short"),
        (b"\1abc\0\1\0\5abcd", "cut short"),
        (b"\1abc\0\1\xff\xffabcd", "cut short"),
        (b"\1abc\0\1\0\2ab", "DUID of 2 octets"),
        (b"\1abc\0\1\0\x83" + bytes(131), "DUID of 131 octets"),
        (b"\1abc" + 2 * b"\0\2\0\4abcd", "twice"),
        (b"\1abc" + 129 * b"\0\x63\0\0", "too many DHCPv6 options"),
        (b"\1abc" + 9 * (b"\0\3\0\x0c" + bytes(12)), "too many identity"),
        (b"\1abc\0\3\0\x0b" + bytes(11), "association is cut short"),
        (b"\1abc\0\4\0\3" + bytes(3), "association is cut short"),
        (b"\1abc\0\3\0\x10" + bytes(12) + b"\0\5\0\1", "cut short"),
        (b"\1abc\0\3\0\x11" + bytes(12) + b"\0\5\0\1a", "address"),
        (b"\1abc\0\3\0\x29" + bytes(12) + b"\0\5\0\x19" + bytes(25), "cut short"),
        (b"\1abc\0\3\0\x11" + bytes(12) + b"\0\x0d\0\1a", "status"),
        (b"\1abc\0\6\0\3abc", "odd size"),
        (b"\1abc\0\x3d\0\1a", "odd size"),
        (b"\1abc\0\x0f\0\1a", "user class"),
        (b"\1abc\0\x0f\0\3\0\2a", "user class"),
        (b"\1abc\0\x0f\2\x04" + bytes(516), "too many user classes"),
        (b"\x0cabc", "relay"),
        (b"\x0dabc", "relay"),
        (b"\0abc", "type 0"),
        (b"\x0eabc", "type 14"),
    ],
)
def test_malformed_messages_are_refused(payload, why):
    with pytest.raises(PacketError, match=why):
        request(payload)


def test_what_we_write_scapy_reads():
    options = (
        (int(Code.CLIENT_ID), bytes(CLIENT_ID.duid)),
        v6_packet.encode_association(
            Association(Code.IA_NA, 5, 10, 20, (Lease(frames6.packed("2001:db8::1"), 30, 40),))
        ),
        v6_packet.encode_association(Association(Code.IA_TA, 6, status=(2, "no"))),
        v6_packet.encode_status(0, "fine"),
    )
    payload = v6_packet.encode(Message(MessageType.REPLY, b"abc", options))
    read = UDP(bytes(UDP(sport=547, dport=546) / payload))

    assert read.payload.msgtype == MessageType.REPLY
    assert bytes(read[DHCP6OptClientId].duid) == bytes(CLIENT_ID.duid)
    lease = read.payload.payload.payload.ianaopts[0]
    assert (lease.addr, lease.preflft, lease.validlft) == ("2001:db8::1", 30, 40)
    assert read[DHCP6OptIA_TA].iataopts[0].statusmsg == b"no"
    assert read.lastlayer().statusmsg == b"fine"
    assert not read.haslayer(DHCP6OptUnknown)
    assert len(payload) == v6_packet.message_size(options)


def test_a_frame_is_taken_apart_and_put_together_as_scapy_does():
    found = frames6.parse(FRAME)

    assert isinstance(found, frames6.Datagram)
    assert (found.envelope.eth_dst, found.envelope.eth_src) == (
        bytes.fromhex(IDENTITY.replace(":", "")),
        frames6.packed_mac(MAC),
    )
    assert (found.envelope.src, found.envelope.dst) == (frames6.packed(LINK_LOCAL), frames6.packed(GROUP))
    assert (found.sport, found.dport, found.payload) == (546, 547, bytes(solicit(23, 24)))
    assert frames6.build_datagram(found.envelope, found.payload, 546, 547) == FRAME


def test_padding_behind_a_packet_is_no_part_of_it():
    assert frames6.parse(FRAME + bytes(20)) == frames6.parse(FRAME)


def test_a_checksum_left_to_a_network_card_is_no_wrong_one():
    at = 14 + 40 + 6
    pseudo = frames6.packed(LINK_LOCAL) + frames6.packed(GROUP) + (len(FRAME) - 54).to_bytes(4) + (17).to_bytes(4)
    partial = sum(int.from_bytes(pseudo[index : index + 2]) for index in range(0, len(pseudo), 2)) % 0xFFFF
    left = FRAME[:at] + partial.to_bytes(2) + FRAME[at + 2 :]

    assert frames6.parse(left) == frames6.parse(FRAME)


HEADERS = Ether(src=MAC, dst=IDENTITY) / IPv6(src=LINK_LOCAL, dst=GROUP)
LATER = UDP(sport=546, dport=547) / solicit()


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "shorter"),
        (FRAME[:53], "shorter"),
        (FRAME[:60], "payload is cut short"),
        (FRAME[:-1], "payload is cut short"),
        (FRAME[:-1] + bytes((FRAME[-1] ^ 1,)), "checksum"),
        (FRAME[:60] + b"\0\0" + FRAME[62:], "without checksum"),
        (FRAME[:12] + b"\x08\0" + FRAME[14:], "not IPv6"),
        (FRAME[:14] + b"\x40" + FRAME[15:], "not IPv6"),
        (bytes(HEADERS / UDP(sport=546, dport=547, len=7) / solicit()), "UDP length"),
        (bytes(HEADERS / UDP(sport=546, dport=547, len=9999) / solicit()), "UDP length"),
        (bytes(Ether(src=MAC, dst=IDENTITY) / IPv6(src=LINK_LOCAL, dst=GROUP, nh=17, plen=4) / b"abcd"), "UDP header"),
        (
            bytes(Ether(src=MAC, dst=IDENTITY) / IPv6(src=LINK_LOCAL, dst=GROUP, nh=58, plen=3) / b"abc"),
            "ICMPv6 header",
        ),
        (bytes(HEADERS / IPv6ExtHdrFragment() / LATER), "next header 44"),
        (bytes(HEADERS / IPv6ExtHdrDestOpt() / LATER), "next header 60"),
        (bytes(Ether(src=MAC, dst=IDENTITY) / Dot1Q(vlan=0) / IPv6(src=LINK_LOCAL, dst=GROUP) / LATER), "not IPv6"),
    ],
)
def test_frames_that_are_none_are_refused(frame, why):
    with pytest.raises(PacketError, match=why):
        frames6.parse(frame)
