# SPDX-License-Identifier: Apache-2.0
"""Everything that filters use, in memory and together: what the commands say, and what becomes of a packet.

A *probe* is the first packet of a connection that crosses a hybrid plug's bridge: no
state helps it, so it passes only if rules and members let it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agent.core.naming import is_list_chain
from agent.drivers.bridges import BridgesDriver
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.conntrack_table import Connection
from agent.drivers.ipset import IpsetDriver
from agent.drivers.iptables import IptablesDriver
from agent.drivers.members import MembersDriver
from agent.drivers.zones import ZonesDriver
from tests.fakes.bridges import FakeBridges
from tests.fakes.conntrack import FakeTable, connection
from tests.fakes.drivers import Fuse
from tests.fakes.ipset import FakeIpsets, FakeSet
from tests.fakes.iptables import FakeIptables
from tests.fakes.nft import Chain, Elements, Expression, FakeNft, Table, parse_rule
from tests.fakes.nft_elements import FakeElements

PROGRAMS = {4: "iptables", 6: "ip6tables"}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}
FOREIGN_CHAINS = {"FORWARD": ["-i docker0 -j theirs"], "theirs": ["-p tcp -j ACCEPT"]}
OURS = '"hp:'  # in the comment of a jump of ours
FOREIGN_ZONE = 65000
FOREIGN_CONNECTIONS = (
    connection(0, 6, "10.0.0.1", "10.0.0.2", 22, 4000, 1),
    connection(FOREIGN_ZONE, 6, "10.0.0.1", "10.0.0.2", 22, 4000, 1),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A packet from one port of bridge ``qbr<suffix>`` to the other; ``egress``: the instance sends it.

    ``service`` is the destination port, or the ICMP type with code 0.
    """

    suffix: str
    egress: bool
    family: int
    protocol: int
    source: str
    destination: str
    source_port: int
    service: int


@dataclass(slots=True)
class _Walk:
    """A packet on its way: what has become of its mark, and whether connections are tracked."""

    probe: Probe
    mark: int = 0
    zone: int = 0
    tracked: bool = True


class FakeFilter:
    """The kernel's part of a host's filters.  Holds things of others from the start."""

    def __init__(self) -> None:
        self.iptables = FakeIptables(FOREIGN_CHAINS)
        self.ipsets = FakeIpsets({"theirs": FakeSet(elements={"192.0.2.1": ""})})
        self.iptables.sets = self.ipsets
        self.nft = FakeNft()
        self.nft.tables["inet", "theirs"] = Table({"zones": Chain({}, [parse_rule("accept")])}, {"set": {"x": 1}})
        self.bridges = FakeBridges()
        self.table = FakeTable(FOREIGN_CONNECTIONS)
        self.note_foreign()

    def drivers(
        self,
    ) -> tuple[tuple[BridgesDriver, IpsetDriver, IptablesDriver, MembersDriver, ZonesDriver], ConntrackDriver]:
        """Return the drivers of a new process: those before the flows, and the one behind."""
        conntrack = ConntrackDriver(self.table)
        return (
            BridgesDriver(Path("/"), self.bridges),
            IpsetDriver(self.ipsets.run, self.ipsets),
            IptablesDriver(self.iptables),
            MembersDriver(self.ipsets.run, self.ipsets),
            ZonesDriver(self.nft, conntrack.flush, elements=FakeElements(self.nft)),
        ), conntrack

    def light(self, fuse: Fuse | None) -> None:
        """Let *fuse* burn with everything that is written."""
        for part in (self.iptables, self.ipsets, self.nft, self.bridges, self.table):
            part.fuse = fuse

    def reboot(self) -> None:
        """Lose everything of ours, as the kernel does; the others are faster in making theirs again."""
        fresh = FakeFilter()
        self.iptables.tables, self.ipsets.sets = fresh.iptables.tables, fresh.ipsets.sets
        self.nft.tables, self.table.connections = fresh.nft.tables, fresh.table.connections
        self.bridges.plugs.clear()

    @property
    def writes(self) -> int:
        """How much has been written so far."""
        return self.iptables.changes + len(self.ipsets.scripts) + self.nft.changes + self.bridges.changes

    def foreign(self) -> object:
        """Return everything that is not ours."""
        rules = {
            program: {
                chain: [rule for rule in rules if OURS not in rule]
                for chain, rules in table.items()
                if not chain.startswith("hp-")
            }
            for program, table in self.iptables.tables.items()
        }
        sets = {name: dict(one.elements) for name, one in self.ipsets.sets.items() if not name.startswith("hp-")}
        tables = {name: repr(table) for name, table in self.nft.tables.items() if name[1] != "hostplane"}
        connections = {one for one in self.table.connections if one.zone in (0, FOREIGN_ZONE)}
        return rules, sets, tables, connections

    def own_zones(self) -> Elements:
        """Return bridge -> zone, to be changed by hand."""
        return self.nft.tables.get(("inet", "hostplane"), Table()).sets.get("zones", {})

    def note_foreign(self) -> None:
        """Remember what others have now."""
        self._foreign = self.foreign()

    def check_foreign(self) -> None:
        """Assert that nothing of others was touched."""
        assert self.foreign() == self._foreign, "somebody else's was touched"

    def own_connections(self) -> set[Connection]:
        """Return the connections in zones of ours."""
        return {one for one in self.table.connections if one.zone not in (0, FOREIGN_ZONE)}

    def dump(self) -> str:
        """Return what is ours but for connections and flags, sorted where the order means nothing."""
        return "\n".join((*_own_rules(self.iptables), self.ipsets.dump(), self.nft.dump()))

    # Packets.

    def passes(self, probe: Probe) -> bool:
        """Tell whether *probe* reaches the other side of its bridge."""
        if not self.bridges.has_instance(probe.suffix):
            return False
        walk = _Walk(probe)
        self._nft("inet", "zones", walk)
        if self.bridges.plugs[probe.suffix].filtered and not self._forward(walk):
            return False
        return self._nft("bridge", "guard", walk) is not False

    def _nft(self, family: str, name: str, walk: _Walk) -> bool | None:
        table = self.nft.tables.get((family, "hostplane"))
        if table is None or name not in table.chains:
            return None
        for rule in table.chains[name].rules:
            for expression in rule:
                if "goto" in expression:
                    return self._nft(family, expression["goto"]["target"], walk)
                if expression.keys() & {"accept", "drop", "return"}:
                    return {"accept": True, "drop": False, "return": None}[next(iter(expression))]
                if not _holds(expression, table, walk):
                    break
        return None

    def _forward(self, walk: _Walk) -> bool:
        return self._walk_chain(self.iptables.tables[PROGRAMS[walk.probe.family]], "FORWARD", walk) is not False

    def _walk_chain(self, table: Mapping[str, list[str]], chain: str, walk: _Walk) -> bool | None:
        for text in table[chain]:
            rule = compiled(text)
            if not all(test(walk, self.ipsets) for test in rule.tests):
                continue
            if rule.target in ("ACCEPT", "DROP"):
                return rule.target == "ACCEPT"
            walk.mark |= rule.mark
            if rule.target in table:
                verdict = self._walk_chain(table, rule.target, walk)
                if verdict is not None or rule.goes:
                    return verdict
        return None


def _own_rules(iptables: FakeIptables) -> Iterator[str]:
    for program, table in iptables.tables.items():
        for chain, rules in sorted(table.items()):
            if not chain.startswith("hp-"):
                yield f"{program} {chain}: {[(place, rule) for place, rule in enumerate(rules) if OURS in rule]}"
            elif is_list_chain(chain):
                yield f"{program} {chain}: {sorted(rules)}"
            else:
                yield f"{program} {chain}: {rules}"


# nf_tables.


def _holds(expression: Expression, table: Table, walk: _Walk) -> bool:
    """Carry out an expression; tell whether the rule goes on."""
    if "notrack" in expression:
        walk.tracked = False
        return True
    if "match" in expression:
        left, right = expression["match"]["left"], expression["match"]["right"]
        return _is_equal(_value(left, walk), right, table)
    what = expression["mangle"]
    if what["key"] == {"ct": {"key": "zone"}}:
        zone = table.sets["zones"].get(f"qbr{walk.probe.suffix}")
        walk.zone = zone if zone is not None else walk.zone
        return zone is not None
    (operator, (_, number)) = next(iter(what["value"].items()))
    walk.mark = walk.mark & number if operator == "&" else walk.mark | number
    return True


def _value(left: Expression, walk: _Walk) -> Any:
    probe = walk.probe
    match left:
        case {"meta": {"key": "iifname"}}:
            return (f"qbr{probe.suffix}", *_crossing(probe)[:1])
        case {"meta": {"key": "oifname"}}:
            return _crossing(probe)[1:]
        case {"&": [{"meta": {"key": "mark"}}, number]}:
            return walk.mark & number
        case {"payload": {"field": "type"}}:
            return "ip" if probe.family == 4 else "ip6"
        case {"&": [{"payload": _}, _]}:
            return 0 if probe.family == 4 else None
        case {"exthdr": _}:
            return False if probe.family == 6 else None
    raise AssertionError(f"unknown: {left}")


def _is_equal(found: Any, right: Any, table: Table) -> bool:
    if isinstance(found, tuple):  # names of devices
        if right.startswith("@"):
            return any(name in table.sets[right[1:]] for name in found)
        return any(name.startswith(right[:-1]) if right.endswith("*") else name == right for name in found)
    return found in right["set"] if isinstance(right, dict) else found == right


# iptables.

Test = Callable[[_Walk, FakeIpsets], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule ready to be tried: all of ``tests`` must hold."""

    tests: tuple[Test, ...]
    target: str
    goes: bool
    mark: int


@cache
def compiled(text: str) -> Rule:
    """Return a rule from what iptables-save prints."""
    words = iter(text.split())
    tests: list[Test] = []
    target, goes, mark, match, negated = "", False, 0, "", False
    for word in words:
        if word in ("--comment", "--nflog-prefix", "--nflog-group") or word.startswith("--hashlimit"):
            next(words)
        elif word == "-m":
            match = next(words)
        elif word == "!":
            assert match == "connmark", text
            negated = True
        elif word == "--mark" and match == "connmark":  # of a connection that begins nothing of ours is set
            tests.append(_never if not negated else _always)
            next(words)
        elif word in ("-j", "-g"):
            target, goes = next(words), word == "-g"
        elif word == "--set-xmark":
            bits = int(next(words).split("/")[0], 16)
            mark = bits if target == "MARK" else 0  # else it is the connection's
        elif word == "--physdev-is-bridged":
            pass  # what is probed is
        elif word == "--match-set":
            tests.append(_in_set(next(words), next(words)))
        else:
            tests.append(_TESTS[word](next(words)))
    return Rule(tuple(tests), target, goes, mark)


def _never(walk: _Walk, sets: FakeIpsets) -> bool:
    return False


def _always(walk: _Walk, sets: FakeIpsets) -> bool:
    return True


def _crossing(probe: Probe) -> tuple[str, str]:
    """Return the ports of the bridge by which a packet comes and goes."""
    tap, switch = f"tap{probe.suffix}", f"qvb{probe.suffix}"
    return (tap, switch) if probe.egress else (switch, tap)


def _device(name: str) -> Test:
    exact = not name.endswith("+")
    wanted = name.rstrip("+")

    def test(walk: _Walk, _: FakeIpsets) -> bool:
        device = f"qbr{walk.probe.suffix}"
        return device == wanted if exact else device.startswith(wanted)

    return test


def _in_set(name: str, side: str) -> Test:
    def test(walk: _Walk, sets: FakeIpsets) -> bool:
        address = walk.probe.source if side == "src" else walk.probe.destination
        return name in sets.sets and any(
            is_in(address, element) for element, flag in sets.sets[name].elements.items() if not flag
        )

    return test


@cache
def is_in(address: str, network: str) -> bool:
    """Tell whether *address* lies in *network*."""
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def _protocol(name: str) -> Test:
    number = PROTOCOLS.get(name) or int(name)
    return lambda walk, _: walk.probe.protocol == number


def _ports(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


def _service(text: str) -> Test:
    wanted = _ports(text)
    return lambda walk, _: walk.probe.service in wanted


def _source_port(text: str) -> Test:
    wanted = _ports(text)
    return lambda walk, _: walk.probe.source_port in wanted


def _icmp(text: str) -> Test:
    kind, _, code = text.partition("/")
    return lambda walk, _: walk.probe.service == int(kind) and code in ("", "0")


def _mark(text: str) -> Test:
    value, mask = (int(part, 16) for part in text.split("/"))
    return lambda walk, _: walk.mark & mask == value


_TESTS: Mapping[str, Callable[[str], Test]] = {
    "-i": _device,
    "-o": _device,
    "-p": _protocol,
    "-s": lambda network: lambda walk, _: is_in(walk.probe.source, network),
    "-d": lambda network: lambda walk, _: is_in(walk.probe.destination, network),
    "--sport": _source_port,
    "--dport": _service,
    "--icmp-type": _icmp,
    "--icmpv6-type": _icmp,
    "--mark": _mark,
    "--ctstate": lambda states: lambda walk, _: walk.tracked and "NEW" in states.split(","),
    "--physdev-in": lambda name: lambda walk, _: _crossing(walk.probe)[0] == name,
    "--physdev-out": lambda name: lambda walk, _: _crossing(walk.probe)[1] == name,
}
