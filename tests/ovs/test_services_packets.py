# SPDX-License-Identifier: Apache-2.0
"""Instances with equal addresses ask and are answered, with real packets through a real switch."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether

from agent.core.service_identity import METADATA4, METADATA6, SERVER_MAC
from tests.golden.l2_world import mac
from tests.ovs.namespace_lab import within
from tests.ovs.pipeline_packets import BROADCAST, link_local
from tests.ovs.services_lab import BODY, OUTSIDE, instance, packets_of, running_host

PORTS = (1, 2, 3)  # 1 and 2 of one network, 3 of another with the addresses of 1
ADDRESSES = {1: ("10.0.0.1", "2001:db8:1::1"), 2: ("10.0.0.2", "2001:db8:1::2"), 3: ("10.0.0.1", "2001:db8:1::1")}
# As DHCP says it: by way of the server's address; and as if the address were on the link.
WAYS = {1: ("via", "10.0.0.253"), 2: (), 3: ()}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with running_host(tmp_path_factory.mktemp("packets"), PORTS) as running:
        for number, (address4, address6) in ADDRESSES.items():
            name = instance(number)
            within(name, "ip", "address", "add", f"{address4}/24", "dev", "eth0")
            within(name, "ip", "address", "add", f"{address6}/64", "dev", "eth0", "nodad")
            within(name, "ip", "route", "add", METADATA4, *WAYS[number], "dev", "eth0")
        yield running


def aliases(host, port):
    """Return address -> alias as the responder knows them."""
    pairs = host.served("metadata")[f"p{port}"]["aliases"]
    return {address: alias for alias, address in pairs}


@pytest.mark.parametrize("port", PORTS)
def test_metadata_over_ipv4(host, port):
    said = host.get(port, METADATA4)
    assert said == aliases(host, port)[ADDRESSES[port][0]].encode() + b" " + BODY


@pytest.mark.parametrize("port", PORTS)
def test_metadata_over_ipv6(host, port):
    """The kernel chooses the link-local address to ask a link-local one."""
    said = host.get(port, METADATA6)
    assert said == aliases(host, port)[link_local(port)].encode() + b" " + BODY


def discover(number, xid):
    hardware = bytes.fromhex(mac(number).replace(":", ""))
    options = [("message-type", "discover"), ("param_req_list", [1, 3, 121]), "end"]
    header = Ether(src=mac(number), dst=BROADCAST) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return header / BOOTP(chaddr=hardware, xid=xid, flags=0x8000) / DHCP(options=options)


def received(opened, wanted):
    """Return the next frame that is *wanted*; fails after the socket's time-out."""
    while True:
        frame = Ether(opened.recv(65536))
        if wanted(frame):
            return frame


def is_answer(frame):
    return (UDP in frame and frame[UDP].sport in (67, 547)) or ICMPv6ND_RA in frame


def has_right_checksums(frame):
    again = frame.copy()
    for layer in (IP, UDP, ICMPv6ND_RA):
        if layer in again:
            del again[layer].fields["cksum" if layer is ICMPv6ND_RA else "chksum"]
    return bytes(again) == bytes(frame)


@pytest.mark.parametrize("port", PORTS)
def test_dhcp_is_answered_to_who_asks_and_to_nobody_else(host, port):
    with packets_of(instance(port)) as own:
        others = [packets_of(instance(other)) for other in PORTS if other != port]
        own.send(bytes(discover(port, 1000 + port)))
        offer = received(own, is_answer)
        assert (offer.src, offer[IP].src) == (SERVER_MAC, "10.0.0.253")
        assert (offer[BOOTP].yiaddr, offer[BOOTP].xid) == (ADDRESSES[port][0], 1000 + port)
        assert has_right_checksums(offer)
        for opened in others:
            assert not [frame for frame in drained(opened) if is_answer(frame)]
            opened.close()


def drained(opened):
    """Return what has come so far."""
    opened.setblocking(False)
    frames = []
    try:
        while True:
            frames.append(Ether(opened.recv(65536)))
    except BlockingIOError:
        return frames


def test_router_solicitations_are_answered_by_us(host):
    with packets_of(instance(2)) as own, packets_of(instance(1)) as other:
        header = Ether(src=mac(2), dst="33:33:00:00:00:02") / IPv6(src=link_local(2), dst="ff02::2", hlim=255)
        own.send(bytes(header / ICMPv6ND_RS()))
        advertisement = received(own, is_answer)
        assert (advertisement.src, advertisement.dst) == (SERVER_MAC, mac(2))
        assert has_right_checksums(advertisement)
        assert not [frame for frame in drained(other) if is_answer(frame)]


def test_nothing_of_it_leaves_the_host(host):
    """Port 3 is on a physical network: its other broadcasts leave, and so show that all is heard that does."""
    header = Ether(src=mac(3), dst="33:33:00:00:00:02") / IPv6(src=link_local(3), dst="ff02::2", hlim=255)
    last = Ether(src=mac(3), dst=BROADCAST) / IP(src="10.0.0.1", dst="10.0.0.255") / UDP(dport=9)
    with packets_of(OUTSIDE) as wire, packets_of(instance(3)) as own:
        within(instance(3), "ip", "neighbor", "flush", "dev", "eth0")
        own.send(bytes(discover(3, 5)))
        own.send(bytes(header / ICMPv6ND_RS()))
        host.get(3, METADATA4)
        host.get(3, METADATA6)
        own.send(bytes(last))
        heard = [received(wire, lambda frame: True)]
        while not (UDP in heard[-1] and heard[-1][UDP].dport == 9):
            heard.append(received(wire, lambda frame: True))
    assert [frame for frame in heard if b"\xa9\xfe\xa9\xfe" in bytes(frame) or ICMPv6ND_RS in frame] == []
    assert [frame for frame in heard if UDP in frame and frame[UDP].dport == 67] == []
