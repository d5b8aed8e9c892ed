# SPDX-License-Identifier: Apache-2.0
"""What a router costs a packet: throughput and round trips between two networks of one host.

The same two instances, on the same switch, by turns through a router of the agent's (with a
gateway, so it translates and follows connections) and through one made by hand: a namespace
with forwarding, a device on each of the two networks and a rule that translates what leaves
elsewhere.  That one is the floor.  There are six of each: the switch polls its devices one after
the other, and in which order a packet meets them is worth more than what is measured.
``stream`` is octets a second over one TCP connection, ``round-trip`` a datagram there and back.

Rounds are so short that who else is at work on the machine is so for all of one; every other one runs
backwards.  ``stream-ratio`` and ``round-trip-ratio`` are ours over those made by hand within a round: each
sample is the median of a tenth of all rounds, so what lies between the least and the greatest is how
far to trust the median.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ApplyError
from agent.core.naming import tap_name
from agent.sandbox.sandbox import Place
from agent.sandbox.tools import run as run_command
from agent.store.document import Document, Entry, FixedIpRequest, NetworkFields, PortFields, RouterFields, SubnetFields
from agent.store.writer import Writer
from bench.figures import NUMBER, RATE, SECONDS, Figure, Result
from bench.lab import HOST, Lab, lab
from bench.options import Options
from bench.outside import PUBLIC, network, wait_applied
from bench.switch import Interface

NAME = "routed-path"
ROUNDS, QUICK_ROUNDS = 40, 1
PARTS = 10
STREAM_SECONDS = 0.05
TURNS = 20
LONGEST = 300.0  # seconds that all rounds may take
PORT = 7000
MTU = 1450
SIDES = {"left": "10.1.0", "right": "10.2.0"}
OURS, BY_HAND = (1, 2, 3, 4, 5, 6), (249, 250, 251, 252, 253, 254)  # the last octets of the routers' addresses
ENDS = {way: 10 + number for number, way in enumerate((*OURS, *BY_HAND))}  # those of the instance's that each leads to
_PROGRAM = str(Path(__file__).with_name("routed_load.py"))


@dataclass(frozen=True, slots=True)
class End:
    """A port of the store and the namespace in which its device is."""

    space: str
    interface: Interface
    addresses: Sequence[str]

    @property
    def device(self) -> str:
        """Its own end."""
        return f"e{tap_name(self.interface.port)[3:]}"


def run(options: Options) -> Result:
    """Measure by turns."""
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with lab("path", external=True) as place:
        place.start_agent()
        place.switch.wait_for_bridge()
        make(place)
        with serving(place):
            streams = ask(place, "stream", STREAM_SECONDS, rounds)
            trips = ask(place, "turns", TURNS, rounds)
    return Result(NAME, [*streams.figures("stream", RATE), *trips.figures("round-trip", SECONDS)])


@dataclass(frozen=True, slots=True)
class Series:
    """The samples of ours and of those made by hand, of each router one for each round."""

    ours: Sequence[Sequence[float]]
    by_hand: Sequence[Sequence[float]]

    def figures(self, name: str, unit: str) -> list[Figure]:
        """Return all samples, and what ours are of the others."""
        ours, floor = ([sample for samples in all_of for sample in samples] for all_of in (self.ours, self.by_hand))
        return [Figure(name, unit, ours, {}, floor), Figure(f"{name}-ratio", NUMBER, self.ratios())]

    def ratios(self) -> list[float]:
        """Return the medians of the parts of all rounds, each round compared within itself."""
        rounds = zip(zip(*self.ours, strict=True), zip(*self.by_hand, strict=True), strict=True)
        ratios = [sum(ours) / sum(by_hand) for ours, by_hand in rounds]
        size = max(len(ratios) // PARTS, 1)
        return [statistics.median(ratios[first : first + size]) for first in range(0, len(ratios), size)]


def ask(place: Lab, what: str, amount: float, rounds: int) -> Series:
    """Have the left instance send by all routers in turn, ours and the others alternating."""
    ways = [way for pair in zip(OURS, BY_HAND, strict=True) for way in pair]
    targets = {way: f"{SIDES['right']}.{ENDS[way]}" for way in ways}
    words = [sys.executable, _PROGRAM, what, str(PORT), str(amount), str(rounds), *targets.values()]
    found = json.loads(run_command(enter(place, "left", words), timeout=LONGEST))
    return Series([found[targets[way]] for way in OURS], [found[targets[way]] for way in BY_HAND])


def make(place: Lab) -> None:
    """Make the networks, both routers and the instances; return when all is in place."""
    with Writer.connect([place.sandbox.paths.store_address]) as writer:
        writer.apply(network())
        written = writer.apply(_document())
        ports = {port.name: port for port in writer.list_ports()}
    ends = [
        End(
            space,
            Interface(ports[name].id, ports[name].mac_address),
            [fixed_ip.address for fixed_ip in ports[name].fixed_ips],
        )
        for side in SIDES
        for space, name in ((side, side), *((_router(way), f"{_router(way)}-{side}") for way in BY_HAND))
    ]
    for space in (*SIDES, *map(_router, BY_HAND)):
        run_command([*_host(place), "ip", "netns", "add", space])
    for end in ends:
        _connect(place, end)
    _lead(place)
    script = "sysctl -q -w net.ipv4.ip_forward=1; iptables -t nat -A POSTROUTING -o elsewhere -j MASQUERADE"
    for way in BY_HAND:
        run_command(enter(place, _router(way), ["sh", "-ec", script]))
    interfaces = [end.interface for end in ends]
    place.switch.add_interfaces(interfaces)
    place.wait_up(interfaces)
    wait_applied(place, written.revision)


def _document() -> Document:
    routers = tuple(
        Entry(
            f"ours{way}",
            RouterFields(
                external_network=PUBLIC,
                gateway_hosts=(HOST,),
                interfaces=tuple(
                    FixedIpRequest(subnet=f"{side}4", address=f"{prefix}.{way}") for side, prefix in SIDES.items()
                ),
            ),
        )
        for way in OURS
    )
    ports = [
        Entry(name, PortFields(network=side, host=HOST, port_security=secured, fixed_ips=_addresses(side, octets)))
        for side in SIDES
        for name, octets, secured in (
            (side, tuple(ENDS.values()), True),
            *((f"{_router(way)}-{side}", (way,), False) for way in BY_HAND),
        )
    ]
    return Document(
        networks=tuple(Entry(side, NetworkFields(type="vxlan")) for side in SIDES),
        subnets=tuple(
            Entry(f"{side}4", SubnetFields(network=side, cidr=f"{prefix}.0/24", gateway=f"{prefix}.{OURS[0]}"))
            for side, prefix in SIDES.items()
        ),
        ports=tuple(ports),
        routers=routers,
    )


def _router(way: int) -> str:
    """Return the namespace of a router made by hand."""
    return f"byhand{way}"


def _addresses(side: str, octets: Iterable[int]) -> tuple[FixedIpRequest, ...]:
    return tuple(FixedIpRequest(address=f"{SIDES[side]}.{octet}") for octet in octets)


def _connect(place: Lab, end: End) -> None:
    tap, device = tap_name(end.interface.port), end.device
    lines = [f"link add {tap} up type veth peer name {device} address {end.interface.mac} mtu {MTU} netns {end.space}"]
    run_command([*_host(place), "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
    script = (
        f"sysctl -q -w net.ipv6.conf.all.disable_ipv6=1; ethtool -K {device} tx off >/dev/null;"
        f" ip link set {device} up; "
    ) + ";".join(f"ip address add {address}/24 dev {device}" for address in end.addresses)
    run_command(enter(place, end.space, ["sh", "-ec", script]))


def _lead(place: Lab) -> None:
    """Have each pair of the instances' addresses talk by another router."""
    for side, other in (("left", "right"), ("right", "left")):
        lines = [
            f"route replace {SIDES[other]}.{end}/32 via {SIDES[side]}.{way} src {SIDES[side]}.{end}"
            for way, end in ENDS.items()
        ]
        run_command(enter(place, side, ["ip", "-batch", "-"]), stdin="".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def serving(place: Lab) -> Iterator[None]:
    """Have the right instance answer."""
    argv = enter(place, "right", [sys.executable, _PROGRAM, "serve", str(PORT)])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise ApplyError("nobody answers")
            yield
        finally:
            process.kill()


def enter(place: Lab, space: str, command: Sequence[str]) -> list[str]:
    """Return the words that run *command* in a namespace of the agent's host."""
    return place.sandbox.argv(Place(place.host, space), command)


def _host(place: Lab) -> list[str]:
    return place.sandbox.argv(Place(place.host), [])
