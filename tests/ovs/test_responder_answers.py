# SPDX-License-Identifier: Apache-2.0
"""What a real responder answers on real sockets: to whom, and to nobody else, whatever others do meanwhile."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6OptIAAddress
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether

from agent.core.service_identity import DHCP_DEVICE, METADATA6, SERVER_MAC, identity_mac, link_local
from agent.metadata.data import Limits
from agent.responder_client import Request
from tests.dhcp6_client import solicit, udp_frame
from tests.ovs.responder_lab import (
    address6,
    alias4,
    discover,
    lab,
    mac,
    port_data,
    put_dhcp,
    put_metadata,
    put_service,
    read_answer,
    with_xid,
)

PORTS = range(1, 5)
FLOOD = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
link.bind((sys.argv[1], 0))
frame = bytes.fromhex(sys.argv[2])
print("ready", flush=True)
while True:
    try:
        link.send(frame)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("responder")) as found:
        yield found


@pytest.fixture(scope="module")
def process(place):
    return place.start()


@pytest.fixture
def running(place, process):
    """The responder, and four ports that it has just been told of."""
    keys = [key for key in process.client.digests() if not key.startswith("socket ")]
    process.tell(*(Request({"type": "delete", "key": key}) for key in keys))
    place.hush()
    process.mark()
    told = [put_service(limits=Limits(rate=0)), *map(put_dhcp, PORTS), *map(put_metadata, PORTS)]
    assert process.tell(*told) == [None] * len(told)
    return process


def of(number, layer, destination, source=None):
    source = source or link_local(mac(number))
    return bytes(Ether(src=mac(number), dst=identity_mac(number)) / IPv6(src=source, dst=destination, hlim=255) / layer)


def is_a(layer):
    return lambda frame: layer in Ether(frame)


def test_a_port_is_answered_by_every_protocol_with_what_is_its_own(place, running):
    offer = Ether(place.ask(discover(2, hostname=b"other"), 2, want=is_a(DHCP)))
    assert (offer.src, offer.dst) == (identity_mac(2), mac(2))
    assert offer[BOOTP].yiaddr == "10.0.0.2"
    assert ("message-type", 2) in offer[DHCP].options

    message = udp_frame(solicit(), src=link_local(mac(2)))
    message = bytes.fromhex(identity_mac(2).replace(":", "") + mac(2).replace(":", "")) + message[12:]
    advertise = Ether(place.ask(message, 2, want=is_a(DHCP6_Advertise)))
    assert advertise[DHCP6OptIAAddress].addr == address6(2)

    advertisement = Ether(place.ask(of(2, ICMPv6ND_RS(), "ff02::2"), 2, want=is_a(ICMPv6ND_RA)))
    assert advertisement[IPv6].src == link_local(SERVER_MAC)
    assert (advertisement[ICMPv6ND_RA].M, advertisement[ICMPv6ND_RA].routerlifetime) == (1, 0)

    for target in (METADATA6, "2001:db8:1::2", link_local(SERVER_MAC)):
        found = Ether(place.ask(of(2, ICMPv6ND_NS(tgt=target), target), 2, want=is_a(ICMPv6ND_NA)))
        assert found[ICMPv6ND_NA].tgt == target
        assert found[ICMPv6ND_NA].payload.lladdr == SERVER_MAC

    assert running.count("dhcp_messages", "type=discover", "family=4", "result=offered") == 1
    assert running.count("dhcp_messages", "type=solicit", "family=6", "result=answered") == 1
    assert running.count("ra_sent", "kind=solicited") == 1
    assert running.count("nd_messages", "result=answered") == 3
    page = running.stats("port-2")["port"]
    assert [(each["protocol"], each["message"]) for each in page["messages"]] == [
        ("ra", "solicitation"),
        ("dhcpv6", "solicit"),
        ("dhcpv4", "discover"),
    ]


def test_only_the_way_by_which_a_frame_came_says_whose_it_is(place, running):
    foreign = bytearray(discover(1))
    foreign[:6] = bytes.fromhex(identity_mac(2).replace(":", ""))  # port 1's request, come in on port 2
    nobody = bytearray(discover(1))
    nobody[:6] = bytes.fromhex(identity_mac(99).replace(":", ""))

    place.wire.send(bytes(foreign))
    place.wire.send(bytes(nobody))
    answer = Ether(place.ask(discover(3, xid=7), 3))

    assert answer[BOOTP].xid == 7
    assert running.count("dhcp_messages", "result=other-hardware") == 1
    assert running.count("dropped_frames", "reason=unknown-port") >= 1


def test_a_port_that_floods_costs_others_no_answer(place, running):
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD, DHCP_DEVICE, discover(1).hex()], stdout=subprocess.PIPE, text=True
    )
    assert flood.stdout is not None
    try:
        assert flood.stdout.readline() == "ready\n"
        until = time.monotonic() + 10
        while running.count("rate_limited", "what=frames") < 100:
            assert time.monotonic() < until
        for xid in range(30):
            number = 2 + xid % 3
            # No second try: what is lost once is lost.
            assert place.ask(discover(number, xid), number, 2.0, want=lambda frame, x=xid: _xid(frame) == x), xid
    finally:
        flood.kill()
        flood.wait()
        flood.stdout.close()
    assert running.stats("port-1")["port"]["rate_limited"] >= 100
    # Once it is quiet the port is served again: floods end, and instances are rebooted.
    until = time.monotonic() + 10
    while place.ask(discover(1, 0x99), 1, 0.3, want=lambda frame: _xid(frame) == 0x99) is None:
        assert time.monotonic() < until


def test_advertisements_come_unasked_to_each_port_and_soon_after_a_change(place, running):
    heard: dict[str, Ether] = {}
    until = time.monotonic() + 5
    while len(heard) < len(PORTS):
        assert time.monotonic() < until
        frame = Ether(place.wire.recv(65536))
        if ICMPv6ND_RA in frame and frame[IPv6].dst == "ff02::1":
            heard[frame.src] = frame
    assert heard.keys() == {identity_mac(number) for number in PORTS}
    assert running.tell(put_dhcp(3, replace(port_data(3), mtu=1400), "2")) == [None]
    frame = place.hear(3, 5, want=lambda found: is_a(ICMPv6ND_RA)(found) and b"\x05\x01\0\0\0\0\x05\x78" in found)
    assert frame is not None
    assert running.stats("port-3")["port"]["advertised_at"] == pytest.approx(time.time(), abs=5)


def test_metadata_is_of_the_port_whose_alias_asks(place, running):
    large = bytes(range(256)) * 1024
    assert running.tell(put_metadata(4, user_data=large, digest="2")) == [None]

    for version in (4, 6):
        for number in (1, 2, 3):
            assert place.get(number, version=version) == (200, f"of port-{number}".encode())
        assert place.get(4, version=version) == (200, large)
    status, body = place.get(3, "/openstack/latest/meta_data.json")
    assert (status, json.loads(body)["uuid"]) == (200, "instance-3")
    page = running.stats("port-3")["port"]["metadata"]
    assert (page["address"], page["path"], page["code"]) == ("10.0.0.3", "/openstack/latest/meta_data.json", 200)


def test_an_alias_stands_for_a_port_no_longer_than_it_is_said(place, running):
    with place.connect(1) as kept:
        kept.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(kept) == (200, b"of port-1")
        assert running.tell(Request({"type": "delete", "key": "metadata port-1"})) == [None]
        kept.settimeout(0.2)  # it is over when the acknowledgement has come, not some time later
        with pytest.raises(OSError, match=r"reset|Broken"):
            kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert kept.recv(1) == b""
            kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(OSError), place.connect(1) as refused:
        refused.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(refused)
    assert running.count("dropped_frames", "reason=unknown-alias") >= 1
    assert place.get(2) == (200, b"of port-2")
    assert alias4(1) not in json.dumps(running.stats())


@pytest.mark.alone
def test_a_port_with_a_thousand_half_open_connections_costs_others_nothing(place, running):
    assert running.tell(put_service(limits=Limits(connections=64, patience=1.0))) == [None]
    held = []
    try:
        for index in range(1000):
            with contextlib.suppress(OSError):  # one too many, and reset
                held.append(place.connect(1))
                held[-1].send(b"GET / HT" if index % 2 else b"P")
        until = time.monotonic() + 10
        while running.count("rate_limited", "what=connections") < 1000 - 64:
            assert time.monotonic() < until
        assert running.stats("port-1")["port"]["connections"] <= 64
        began = time.monotonic()
        for _ in range(20):
            assert place.get(2) == (200, b"of port-2")
        assert time.monotonic() - began < 1.0
        # Who sends nothing more is cut off.
        until = time.monotonic() + 10
        while running.stats("port-1")["port"]["connections"]:
            assert time.monotonic() < until
    finally:
        for each in held:
            each.close()
    assert place.get(1) == (200, b"of port-1")


def test_a_client_that_takes_nothing_is_cut_off(place, running):
    large = bytes(1 << 24)
    assert (
        running.tell(put_service(limits=Limits(patience=0.5)), put_metadata(1, user_data=bytes(1 << 20))) == [None] * 2
    )
    before = running.memory()
    with place.connect(1) as lazy:
        lazy.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n" * 64)
        until = time.monotonic() + 10
        while not running.stats("port-1")["port"]["connections"]:
            assert time.monotonic() < until
        while running.stats("port-1")["port"]["connections"]:
            assert time.monotonic() < until
    assert running.memory() - before < len(large) >> 10


@pytest.mark.alone
def test_many_puts_at_once_do_not_hold_up_answers(place, running):
    batch = [put_dhcp(number, digest="new") for number in range(100, 900)]
    teller = threading.Thread(target=running.client.ask, args=(batch,))
    waits = []
    with place.connect(1) as kept:
        teller.start()
        while teller.is_alive():
            began = time.monotonic()
            kept.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(kept) == (200, b"of port-1")
            waits.append(time.monotonic() - began)
    teller.join()
    assert len(waits) > 20  # turns are of milliseconds, the whole of half a second
    assert sorted(waits)[len(waits) // 2] < 0.05
    assert len(running.client.digests()) >= 800


def _xid(frame):
    layers = Ether(frame)
    return layers[BOOTP].xid if BOOTP in layers else None


def test_frames_of_any_octets_get_no_answer_and_end_nothing(place, running):
    identity = bytes.fromhex(identity_mac(1).replace(":", ""))
    good = discover(1)
    for size in (0, 1, 13, 14, 20, 34, 42, 100, 282, 1500):
        place.wire.send((identity + good[6:size]).ljust(14, b"\0"))
    place.wire.send(with_xid(good, 0xABCD))
    assert place.hear(1, want=lambda frame: _xid(frame) == 0xABCD) is not None
    assert running.process.poll() is None
