# SPDX-License-Identifier: Apache-2.0
"""Security groups: how long until filters are in force, and what they cost a packet.

All ports have the same four groups of twenty rules each, IPv4 and IPv6 in turn.

``filter-convergence`` is as ``wiring``, for hybrid plugs: from the commit of the
transaction that adds all interfaces until the last port is up, filtered.  Its floor is
``iptables-restore`` and ``ip6tables-restore`` of the ruleset that results, by hand, into
an empty host.

``rule-added`` runs from the writer's commit until the agent says that the revision is
applied, ``rule-write`` is the writer's part before; the floor is one
``iptables-restore --noflush`` of that rule into the same ruleset, by hand.
``rule-bytes`` is what the agent handed to ``iptables-restore``.  ``member-added`` and
``member-write`` are the same for one address more in a group of 10,000, and
``member-pass`` the time that the agent planned and wrote for it; the floor is one
``ipset add``.

``port-added`` is one more hybrid plug until it is up, with all the others there.  Its
floor is one more direct plug of a port that is not filtered, by the same agent: the
difference is what filtering costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent.core.errors import ApplyError
from agent.sandbox.sandbox import Place
from agent.sandbox.tools import run as run_command
from agent.status import client
from agent.store.document import AddressGroupFields, Document, Entry, PortFields, RuleFields, SecurityGroupFields
from agent.store.records import Written
from agent.store.writer import Writer
from bench.database import Database, Json
from bench.figures import BYTES, SECONDS, Figure, Result
from bench.lab import HOST, NETWORK, STORE, Lab, lab
from bench.options import Options
from bench.processes import memory
from bench.switch import TIMEOUT, Interface
from bench.wiring import SETTLE

NAME = "filters"
GROUPS, RULES = 4, 20
MEMBERS, QUICK_MEMBERS = 10_000, 100
REPEATS, QUICK_REPEATS = 15, 2
OFFICE = "office"


@dataclass(slots=True)
class Times:
    """Seconds of one change, each sample: the writer's, ours and by hand."""

    write: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)


def run(options: Options) -> Result:
    """Measure with ``options.most`` ports."""
    members = QUICK_MEMBERS if options.quick else MEMBERS
    repeats = QUICK_REPEATS if options.quick else REPEATS
    params = {"ports": options.most, "groups": GROUPS, "rules": RULES}
    with lab(NAME) as place, Writer.connect([place.sandbox.paths.store_address]) as writer:
        writer.apply(groups(members))
        place.start_agent()
        converge = Times()
        ports = add_hybrid_ports(place, writer, options.most)
        converge.ours.append(plug(place, ports))
        converge.floor.append(restore_by_hand(place))
        rules, sizes = rule_added(place, writer, repeats)
        added, passes = member_added(place, writer, repeats)
        more = port_added(place, writer, repeats)
        peak = memory(place.agent().pid).peak
    many = {**params, "members": members}
    return Result(
        NAME,
        [
            Figure("filter-convergence", SECONDS, converge.ours, params, converge.floor),
            Figure("rule-write", SECONDS, rules.write, params),
            Figure("rule-added", SECONDS, rules.ours, params, rules.floor),
            Figure("rule-bytes", BYTES, sizes, params),
            Figure("member-write", SECONDS, added.write, many),
            Figure("member-added", SECONDS, added.ours, many, added.floor),
            Figure("member-pass", SECONDS, passes, many, added.floor),
            Figure("port-added", SECONDS, more.ours, params, more.floor),
            Figure("peak", BYTES, [peak], many),
        ],
    )


def groups(members: int) -> Document:
    """Return four groups of twenty rules, one of which lets an address group of *members* in."""
    office = AddressGroupFields(addresses=tuple(_member(number) for number in range(members)))
    entries = []
    for group in range(GROUPS):
        rules = [
            RuleFields(
                direction="ingress",
                ethertype="IPv6" if number % 2 else "IPv4",
                protocol="tcp",
                ports=1000 * (group + 1) + number,
            )
            for number in range(RULES - 2)
        ]
        rules.append(RuleFields(direction="egress", ethertype="IPv4"))
        rules.append(
            RuleFields(
                direction="ingress", ethertype="IPv4", protocol="tcp", ports=22 + group, remote_address_group=OFFICE
            )
        )
        entries.append(Entry(_group(group), SecurityGroupFields(rules=tuple(rules))))
    return Document(address_groups=(Entry(OFFICE, office),), security_groups=tuple(entries))


def _group(number: int) -> str:
    return f"group{number}"


def _member(number: int) -> str:
    high, low = divmod(number, 250)
    return f"172.{16 + high // 250}.{high % 250}.{low + 1}"


def add_hybrid_ports(place: Lab, writer: Writer, count: int, name: str = "filtered") -> list[Interface]:
    """Make *count* filtered ports of the agent's host, called *name* and a number, and the devices of their plugs."""
    names = [f"{name}{number}" for number in range(count)]
    fields = PortFields(network=NETWORK, host=HOST, security_groups=tuple(_group(n) for n in range(GROUPS)))
    writer.apply(Document(ports=tuple(Entry(name, fields) for name in names)))
    made = {port.name: port for port in writer.list_ports()}
    interfaces = [Interface(made[name].id, made[name].mac_address, hybrid=True) for name in names]
    place.switch.make_devices(interfaces)
    return interfaces


def plug(place: Lab, interfaces: Sequence[Interface]) -> float:
    """Plug all at once; return the seconds until the last one is up."""
    place.wait_idle()
    committed = place.switch.add_interfaces(interfaces)
    return place.wait_up(interfaces) - committed


def restore_by_hand(place: Lab) -> float:
    """Restore the agent's ruleset on the host without an agent; return the seconds of ``iptables-restore`` alone."""
    here, there = enter(place, agent=True), enter(place, agent=False)
    sets = [line for line in run_command([*here, "ipset", "save"]).splitlines() if " hp-" in line]
    run_command([*there, "ipset", "restore"], stdin="".join(f"{line}\n" for line in sets))
    seconds = 0.0
    for family in ("iptables", "ip6tables"):
        ruleset = run_command([*here, f"{family}-save", "-t", "filter"])
        begun = time.monotonic()
        run_command([*there, f"{family}-restore"], stdin=ruleset)
        seconds += time.monotonic() - begun
    return seconds


def rule_added(place: Lab, writer: Writer, repeats: int) -> tuple[Times, list[float]]:
    """Add a rule to a group of all ports, again and again; also return the bytes handed over each time."""
    times, sizes = Times(), []
    there = enter(place, agent=False)
    chain = _largest_group_chain(run_command([*there, "iptables-save", "-t", "filter"]))
    for number in range(repeats):
        rule = RuleFields(direction="ingress", ethertype="IPv4", protocol="udp", ports=20_000 + number)
        before = _handed_over(place)
        until_applied(place, times, partial(writer.add_security_group_rules, _group(0), (rule,)))
        sizes.append(_handed_over(place) - before)
        line = f"*filter\n-A {chain} -p udp -m udp --dport {20_000 + number} -j hp-accept\nCOMMIT\n"
        begun = time.monotonic()
        run_command([*there, "iptables-restore", "--noflush"], stdin=line)
        times.floor.append(time.monotonic() - begun)
    rules = run_command([*enter(place, agent=True), "iptables-save", "-t", "filter"])
    if f"--dport {20_000 + repeats - 1} " not in rules:
        raise ApplyError("the revision is applied, but the rule is not there")
    return times, sizes


def member_added(place: Lab, writer: Writer, repeats: int) -> tuple[Times, list[float]]:
    """Add an address to the address group, again and again; also return the seconds of the agent's pass."""
    times, passes = Times(), []
    there = enter(place, agent=False)
    name = next(line.split()[1] for line in run_command([*there, "ipset", "save"]).splitlines() if "inet " in line)
    for number in range(repeats):
        address = f"192.0.2.{number + 1}"
        until_applied(place, times, partial(writer.add_addresses, OFFICE, (address,)))
        last = place.status()["last_pass"]
        passes.append(last["seconds"] + last["plan_seconds"])
        begun = time.monotonic()
        run_command([*there, "ipset", "add", name, address])
        times.floor.append(time.monotonic() - begun)
    return times, passes


def port_added(place: Lab, writer: Writer, repeats: int) -> Times:
    """Plug one more port hybrid, then one more directly, again and again."""
    times = Times()
    pairs = zip(add_hybrid_ports(place, writer, repeats, "more"), place.add_ports(repeats), strict=True)
    for hybrid, direct in pairs:
        for interface, seconds in ((hybrid, times.ours), (direct, times.floor)):
            seconds.append(plug(place, [interface]))
            time.sleep(SETTLE)
    return times


def until_applied(place: Lab, times: Times, write: Callable[[], Written[object]]) -> None:
    """Note how long *write* takes, and from then on until the agent says that its revision is applied."""
    place.wait_idle()
    with Database(place.sandbox.paths.store_socket, STORE).watch("Host_Status", ["host", "applied_revision"]) as rows:
        begun = time.monotonic()
        revision = write().revision
        committed = time.monotonic()
        times.write.append(committed - begun)

        def done(row: Json) -> bool:
            return row["host"] == HOST and row["applied_revision"] >= revision

        # The agent may have been quicker than the writer's own replica.
        times.ours.append(max(rows.wait(done, TIMEOUT) - committed, 0.0))


def enter(place: Lab, *, agent: bool) -> list[str]:
    """Return what a command is prefixed with to run on the agent's host, or on the one without."""
    sandbox = place.sandbox
    return sandbox.argv(Place(place.host if agent else sandbox.host("host2")), [])


def _largest_group_chain(ruleset: str) -> str:
    """Return the group chain with the most rules."""
    chains = [line.split()[1] for line in ruleset.splitlines() if line.startswith("-A hp-g-")]
    return max(chains, key=chains.count)


def _handed_over(place: Lab) -> float:
    """Return how many bytes ``iptables-restore`` was given so far, both families."""
    text = client.get_text(place.host.paths.agent_socket, "/metrics")
    prefix = "hostplane_command_input_bytes_total{command="
    lines = [line for line in text.splitlines() if line.startswith(prefix) and "tables" in line]
    return sum(float(line.split()[-1]) for line in lines)
