# SPDX-License-Identifier: Apache-2.0
"""DHCPv4 message by message, through a whole host: who is answered, from where, with what, and who hears it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.service_identity import SERVER_MAC
from tests.functional.dhcp_probe import (
    ACK,
    ARCHITECTURE,
    BOOT_FILE,
    DECLINE,
    DISCOVER,
    DNS,
    DOMAIN,
    HOST_NAME,
    INFORM,
    IPXE,
    LEASE,
    MTU,
    NAK,
    OFFER,
    PARAMETERS,
    RELEASE,
    REQUEST,
    REQUESTED,
    ROUTER,
    SERVER_ID,
    TFTP_SERVER,
    DhcpProbe,
    Reply,
    is_from_server,
)
from tests.functional.filter_wire import namespace_of
from tests.functional.lab import Lab
from tests.functional.service_places import ADDRESS4, BLUE, DOCUMENT, RED

SILENCE = 0.3  # seconds without an answer that count as none; answers take a few milliseconds
MORE = """
ports:
  pxe1:
    network: green
    host: host1
    fixed_ips: [10.2.0.21]
    dhcp_options:
      tftp-server: 10.2.0.5
      "tag:!ipxe,bootfile-name": undionly.kpxe
      "tag:ipxe,bootfile-name": "http://10.2.0.5/boot.ipxe"
      "tag:efi-x86_64,bootfile-name": ipxe.efi
      "224": "\\u00e9 \\n dhcp-script=/bin/sh"
"""


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    lab.bring_up(MORE)
    return lab


@pytest.fixture(scope="module")
def probe(lab: Lab) -> Iterator[Callable[[str], DhcpProbe]]:
    """Return a function that speaks for an instance."""
    with ExitStack() as ends:
        probes: dict[str, DhcpProbe] = {}

        def speak(instance: str) -> DhcpProbe:
            if instance not in probes:
                probes[instance] = ends.enter_context(DhcpProbe(namespace_of(lab, instance), lab.mac(instance)))
            return probes[instance]

        yield speak


def server_of(reply: Reply) -> str:
    return reply.addresses(SERVER_ID)[0]


def packed(address: str) -> bytes:
    return socket.inet_aton(address)


def test_two_tenants_with_equal_addresses_are_told_their_own(probe: Callable[[str], DhcpProbe]) -> None:
    wanted = [(PARAMETERS, bytes((DNS, DOMAIN, HOST_NAME, MTU, ROUTER)))]
    for tenant in (BLUE, RED):
        reply = probe(tenant.port).lease(wanted)
        assert (reply.address, reply.addresses(ROUTER)) == (ADDRESS4, ["10.0.0.1"])
        assert reply.addresses(DNS) == [tenant.dns4]
        assert (reply.text(DOMAIN), reply.text(HOST_NAME)) == (tenant.domain, tenant.hostname)
        assert int.from_bytes(reply.options[MTU]) == tenant.mtu
        assert int.from_bytes(reply.options[LEASE]) == 86400
        assert ipaddress.ip_address(server_of(reply)) in ipaddress.ip_network("10.0.0.0/24")
        assert reply.source == server_of(reply)
        assert reply.eth_source == SERVER_MAC


def test_only_who_asks_hears_the_answer(probe: Callable[[str], DhcpProbe]) -> None:
    others = [probe(name) for name in ("blue2", "red1", "red2", "green1")]
    for other in others:
        other.heard()
    probe("blue1").lease()
    for other in others:
        other.lease()  # what was on its way has come by then
        assert not [frame for frame in other.heard() if is_from_server(frame)]


@pytest.mark.parametrize("wish", ["192.168.9.9", "10.0.0.12", "10.0.0.200"], ids=["foreign", "neighbor's", "free"])
@pytest.mark.parametrize("port", ["blue1", "red1"])
def test_a_wish_for_any_other_address_is_refused(probe: Callable[[str], DhcpProbe], port: str, wish: str) -> None:
    reply = probe(port).ask(REQUEST, [(REQUESTED, packed(wish))])
    assert reply is not None
    assert reply.kind == NAK
    assert reply.destination == "255.255.255.255"


@pytest.mark.parametrize("port", ["blue1", "red1"])
def test_renewing_by_unicast_to_the_server_and_rebinding_by_broadcast(
    probe: Callable[[str], DhcpProbe], port: str
) -> None:
    speaker = probe(port)
    server = server_of(speaker.lease())
    mac = speaker.resolve(server, ADDRESS4)
    assert mac == SERVER_MAC
    renewed = speaker.ask(REQUEST, client=ADDRESS4, server=server, server_mac=mac)
    rebound = speaker.ask(REQUEST, client=ADDRESS4)
    for reply in (renewed, rebound):
        assert reply is not None
        assert (reply.kind, reply.address, reply.destination) == (ACK, ADDRESS4, ADDRESS4)
        assert reply.eth_destination == speaker.mac


def test_who_has_its_address_from_elsewhere_is_told_the_rest(probe: Callable[[str], DhcpProbe]) -> None:
    reply = probe("blue1").ask(INFORM, [(PARAMETERS, bytes((DNS,)))], client=ADDRESS4)
    assert reply is not None
    assert (reply.kind, reply.address, reply.addresses(DNS)) == (ACK, "0.0.0.0", [BLUE.dns4])
    assert LEASE not in reply.options


def test_declining_and_releasing_take_nothing_from_the_port(probe: Callable[[str], DhcpProbe]) -> None:
    speaker = probe("blue1")
    server = packed(server_of(speaker.lease()))
    told = [(REQUESTED, packed(ADDRESS4)), (SERVER_ID, server)]
    assert speaker.ask(DECLINE, told, timeout=SILENCE) is None
    assert speaker.lease().address == ADDRESS4
    assert speaker.ask(RELEASE, [(SERVER_ID, server)], client=ADDRESS4, timeout=SILENCE) is None
    assert speaker.lease().address == ADDRESS4


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ([], "undionly.kpxe"),
        ([(ARCHITECTURE, b"\0\0")], "undionly.kpxe"),
        ([(ARCHITECTURE, b"\0\7")], "ipxe.efi"),
        ([(ARCHITECTURE, b"\0\0"), (IPXE, b"\1\1\1")], "http://10.2.0.5/boot.ipxe"),
    ],
    ids=["unknown", "BIOS", "UEFI", "iPXE"],
)
def test_what_is_booted_depends_on_who_boots(
    probe: Callable[[str], DhcpProbe], options: list[tuple[int, bytes]], file: str
) -> None:
    reply = probe("pxe1").lease([*options, (PARAMETERS, bytes((BOOT_FILE, TFTP_SERVER, 224)))])
    assert reply.text(BOOT_FILE) == file
    assert reply.next_server == "10.2.0.5"
    assert reply.text(TFTP_SERVER) == "10.2.0.5"
    # Nothing in a value is ever read as configuration.
    assert reply.text(224) == "\u00e9 \n dhcp-script=/bin/sh"


def test_an_instance_cannot_ask_for_another(lab: Lab, probe: Callable[[str], DhcpProbe]) -> None:
    """Who it says it is decides nothing: neither the hardware address in the message nor that of the frame."""
    speaker = probe("blue1")
    other = lab.mac("blue2")
    assert speaker.ask(DISCOVER, hardware=other, timeout=SILENCE) is None
    assert speaker.ask(DISCOVER, hardware=other, source_mac=other, timeout=SILENCE) is None
    assert speaker.ask(DISCOVER, [(61, b"\1" + bytes.fromhex(other.replace(":", "")))]).address == ADDRESS4  # type: ignore[union-attr]


def test_a_port_whose_groups_allow_nothing_still_has_dhcp(probe: Callable[[str], DhcpProbe]) -> None:
    assert probe("red2").lease().address == "10.0.0.12"


def test_what_the_store_says_anew_is_said_in_the_next_answer(lab: Lab, probe: Callable[[str], DhcpProbe]) -> None:
    change = "ports:\n  blue2: {network: blue, host: host1, hostname: renamed, dhcp_options: {ntp-server: 10.0.0.123}}"
    lab.applied(lab.writer.apply(parse_file(change.encode(), "change")))
    reply = probe("blue2").ask(DISCOVER, [(PARAMETERS, bytes((HOST_NAME, 42)))])
    assert reply is not None
    assert (reply.kind, reply.text(HOST_NAME), reply.addresses(42)) == (OFFER, "renamed", ["10.0.0.123"])
