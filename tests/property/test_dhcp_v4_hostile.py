# SPDX-License-Identifier: Apache-2.0
"""Whatever an instance sends, DHCPv4 is silent or answers that instance, with its own addresses, in bounded time."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.errors import InputError
from agent.dhcp import frames
from agent.dhcp.data import BootData, PortData, SubnetData, decode_port, encode_port
from agent.dhcp.frames import Datagram, PacketError
from agent.dhcp.v4_answers import respond
from agent.dhcp.v4_options import read_options
from agent.dhcp.v4_packet import NO_ADDRESS, Code, Header, Message, build, parse
from agent.dhcp.v4_port import RESERVED, TIMES, prepare
from tests.fuzz import dhcp_v4 as fuzz

CLIENT_CODES = (1, 3, 12, 50, 51, 53, 54, 55, 57, 60, 61, 77, 80, 81, 82, 93, 97, 108, 118, 121, 175, 200)

addresses4 = st.one_of(
    st.sampled_from(
        [bytes((10, 0, 0, 5)), bytes((10, 1, 0, 7)), bytes((10, 2, 0, 9)), bytes((10, 0, 0, 2)), NO_ADDRESS]
    ),
    st.binary(min_size=4, max_size=4),
)
payloads = st.one_of(st.binary(max_size=20), st.binary(min_size=240, max_size=600))
anything = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code != Code.OVERLOAD and code not in (50, 51, 53, 54, 57)),
    payloads,
    max_size=12,
)
headers = st.builds(
    Header,
    op=st.integers(0, 255),
    xid=st.integers(0, (1 << 32) - 1),
    chaddr=st.binary(max_size=16),
    htype=st.integers(0, 255),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=addresses4,
    yiaddr=addresses4,
    siaddr=addresses4,
    giaddr=addresses4,
    sname=st.binary(max_size=64).filter(lambda text: b"\0" not in text),
    file=st.binary(max_size=128).filter(lambda text: b"\0" not in text),
)


def framed(payload: bytes) -> bytes:
    return frames.build_udp4(Datagram(fuzz.IDENTITY, fuzz.MAC, NO_ADDRESS, b"\xff" * 4, 68, 67, payload))


@given(st.binary(max_size=2000))
@example(b"")
def test_octets_are_a_message_or_a_packet_error(octets):
    for read in (parse, frames.parse_udp4):
        with contextlib.suppress(PacketError):
            read(octets)
    fuzz.check(octets)


@given(header=headers, options=anything)
def test_messages_come_back_as_they_were(header, options):
    assert parse(build(Message(header, options), 1 << 16)) == Message(header, options)


@given(header=headers, options=anything, limit=st.integers(548, 1472))
def test_of_what_does_not_fit_nothing_is_cut(header, options, limit):
    octets = build(Message(header, options), limit)
    found = dict(parse(octets).options)
    found.pop(Code.OVERLOAD, None)

    assert len(octets) <= limit
    assert found.items() <= options.items()


@st.composite
def client_messages(draw: st.DrawFn) -> Message:
    """Draw what could be a client's message, right in form, with anything in it."""
    options = {code: draw(payloads) for code in draw(st.lists(st.sampled_from(CLIENT_CODES), unique=True, max_size=10))}
    for code, drawn in ((50, addresses4), (51, st.binary(min_size=4, max_size=4)), (54, addresses4)):
        if code in options:
            options[code] = draw(drawn)
    if 57 in options:
        options[57] = draw(st.integers(0, 65535)).to_bytes(2)
    options[53] = draw(st.integers(0, 18)).to_bytes(1)
    header = Header(
        op=1, xid=5, chaddr=fuzz.MAC, ciaddr=draw(addresses4), flags=draw(st.sampled_from((0, 0x8000, 0xFFFF)))
    )  # fmt: skip
    return Message(header, options)


@given(client_messages())
def test_an_answer_is_for_the_port_with_the_ports_address(message):
    fuzz.check(framed(build(message, 9000)))


own_codes = st.integers(1, 254).filter(lambda code: code not in RESERVED)
boot_codes = own_codes.filter(lambda code: code not in TIMES)
four = st.binary(min_size=4, max_size=4)
own_options = st.lists(st.tuples(own_codes.filter(lambda code: code not in (*TIMES, 1, 3, 121)), payloads), max_size=6)
boots = st.builds(
    BootData,
    ipxe=st.sampled_from((None, True, False)),
    architectures=st.lists(st.integers(0, 20), max_size=2).map(tuple),
    next_server=st.sampled_from(("", "10.0.0.9")),
    options4=st.lists(st.tuples(boot_codes, payloads), max_size=4).map(tuple),
)
names = st.sampled_from(("", "web", "a.b", "x" * 63))
ports = st.builds(
    lambda **changed: replace(fuzz.DATA, **changed),
    hostname=names,
    domain=names,
    search=st.lists(names.filter(bool), max_size=3).map(tuple),
    options4=own_options.map(tuple),
    boot=st.lists(boots, max_size=3).map(tuple),
    lease_seconds=st.sampled_from((-1, 1, 60, 86400, 0xFFFFFFFF)),
    mtu=st.sampled_from((576, 1280, 1450, 9000, 65535)),
)


@given(port=ports, message=client_messages())
def test_no_port_makes_an_answer_that_cannot_be_sent(port, message):
    sent = decode_port(encode_port(port))
    answer = respond(message, prepare(sent))

    assert sent == port
    if answer.payload is not None:
        reply = parse(answer.payload)
        assert reply.header.yiaddr in fuzz.ADDRESSES
        assert len(answer.payload) + 28 <= max(port.mtu, 576)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@given(st.sampled_from(sorted(encode_port(fuzz.DATA))), json_values)
def test_data_that_is_no_ports_is_refused_or_prepared(name, value):
    with contextlib.suppress(InputError):
        prepare(decode_port({**encode_port(fuzz.DATA), name: value}))


option_names = st.one_of(
    st.sampled_from(
        ("router", "mtu", "121", "lease-time", "domain-search", "tag:ipxe,67", "tag:arch-7,option:T1", "255")
    ),
    st.integers(0, 300).map(str),
    st.text(max_size=30),
)
option_values = st.one_of(
    st.sampled_from(("10.0.0.1", "10.0.0.0/8,10.0.0.1", "7", "0x0a0b", "01:02", "12h", "a.b,c.b", "")),
    st.text(max_size=60),
)


@given(st.lists(st.tuples(option_names, option_values), max_size=4))
def test_any_extra_option_is_octets_or_an_error(options):
    try:
        read = read_options(options)
    except InputError:
        return
    port = PortData("p", fuzz.DATA.mac, fuzz.DATA.mac, options4=read.options4, boot=read.boot)
    prepare(replace(port, addresses=(("10.0.0.5", 0),), subnets=(SubnetData("10.0.0.0/24", server="10.0.0.2"),)))


def test_broken_requests_are_harmless():
    """A soak sets HOSTPLANE_FUZZ_SECONDS; ``python -m tests.fuzz.dhcp_v4`` watches memory, too."""
    seconds = os.environ.get("HOSTPLANE_FUZZ_SECONDS")
    outcome = fuzz.run(60, seed=1, limit=3000) if seconds is None else fuzz.run(float(seconds), seed=os.getpid())

    assert outcome.answered > outcome.frames / 50
    assert outcome.slowest < 0.1  # the slowest takes less than a millisecond on an idle processor


def test_what_clients_send_is_answered_properly():
    results = {fuzz.check(framed(payload)) for payload in fuzz.corpus()}

    assert {result for result, answered in results if answered} == {"offered", "acknowledged", "refused"}
