# SPDX-License-Identifier: Apache-2.0
"""From store state to store state: planners, reconciler and the real drivers over executable fakes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.naming import EGRESS_CONNMARK, INGRESS_CONNMARK
from agent.core.plan import ItemRef
from agent.drivers.conntrack_table import Connection
from agent.drivers.flows import FlowsDriver
from tests.fakes.conntrack import connection
from tests.fakes.drivers import Crash, Fuse
from tests.fakes.flow_switch import FakeFlowSwitch
from tests.fakes.iptables import FakeIptables
from tests.fakes.meddling import DEEDS, meddle
from tests.fakes.nft import FakeNft
from tests.fakes.packet_filter import Probe
from tests.golden.allowed_probes import PROBES, allowed_probes, probes_of
from tests.golden.host_states import ENTANGLED, NUMBERS, SLOTS, STATES, TCP, WORLDS, SimulatedHost, build, histories

UDP = 17
FOREIGN = "table=60,priority=7,in_port=99"
PORT_OF = {probe.suffix: int(port.removeprefix("p")) for port, probes in PROBES.items() for probe in probes}
# Every port with a filter lets these out and in.
DHCP = [
    *(Probe(suffix, True, 4, UDP, "0.0.0.0", "255.255.255.255", 68, 67) for suffix in PORT_OF),
    *(Probe(suffix, False, 4, UDP, "10.0.0.254", "255.255.255.255", 67, 68) for suffix in PORT_OF),
]
HISTORIES = histories(3)
PAIRS = histories(1, 1)
# Of what looks at every packet before every write: half of the profile's examples.
FEWER = settings(max_examples=settings().max_examples // 2)


class FakeHost(SimulatedHost):
    def __init__(self) -> None:
        self.switch = FakeFlowSwitch()
        self.switch.add(FOREIGN, "drop", cookie=0x99)
        super().__init__(FlowsDriver(self.switch, "unix:/br-int.mgmt"))

    def state(self):
        flows = {key: flow.actions for key, flow in self.switch.flows.items() if key != FOREIGN}
        served = {
            bridge: self.filter.bridges.plugs[bridge.removeprefix("qbr")].filtered
            for bridge in self.reconciler.desired.owners("bridges")
        }
        return flows, dict(self.ovs.items), served, self.filter.dump()

    def light(self, fuse: Fuse | None) -> None:
        super().light(fuse)
        self.switch.fuse = fuse

    def programs(self) -> dict[str, FakeFlowSwitch | FakeIptables | FakeNft]:
        return {"switch": self.switch, "iptables": self.filter.iptables, "nft": self.filter.nft}

    def refuse(self, what: Collection[str]) -> None:
        """Let rules with certain words not be accepted, nft not work ("nft"), an instance not be there ("tap")."""
        self.filter.iptables.refuse = set(what) - {"nft", "tap"}
        self.filter.nft.missing = "nft" in what
        self.filter.bridges.dead = {"p1"} if "tap" in what else set()

    @property
    def writes(self) -> int:
        return self.switch.modifications + self.ovs.operations + self.filter.writes

    def numbers(self) -> dict:
        return {key: value for key, value in self.ovs.items.items() if key.startswith("allocation/")}

    def is_open(self, probe: Probe) -> bool:
        """Whether flows let through what comes from, or goes to, the instance."""
        number = PORT_OF[probe.suffix]
        key = f"table=0,priority=100,in_port={number}," if probe.egress else f",reg1={number:#x},"
        return any(key in flow for flow in self.switch.flows)

    def zone(self, probe: Probe) -> int | None:
        """The zone of the connection that begins with *probe*, None if connections are not tracked."""
        value = self.reconciler.desired.value(ItemRef("zones", f"qbr{probe.suffix}"))
        return int(value) if isinstance(value, str) and value.isdigit() else None

    def passing(self) -> frozenset:
        return frozenset(probe for probe in probes_of() if self.filter.passes(probe))


def fresh(like: FakeHost, world) -> FakeHost:
    """A host that has never seen anything but *world*, with the numbers that *like* has been given."""
    host = FakeHost()
    host.ovs.items = like.numbers()
    host.start()
    host.settle(world)
    return host


def check(host: FakeHost, world) -> None:
    assert host.state() == fresh(host, world).state()
    assert host.switch.flows[FOREIGN].actions == "drop", "somebody else's flow was touched"
    host.filter.check_foreign()
    assert host.passing() == allowed_probes(world)
    before = host.writes
    host.run(world)
    host.reconciler.need_resync()
    host.run(world)
    assert host.writes == before, "nothing had changed, and something was written"


@given(HISTORIES)
def test_the_end_depends_only_on_the_last_state_of_the_store(history):
    host = FakeHost()
    for world in history:
        host.run(world)
        assert host.misread == 0
    host.settle(history[-1])
    check(host, history[-1])


@given(PAIRS)
def test_there_and_back_again_restores_everything(worlds):
    host, (first, second) = FakeHost(), worlds
    host.settle(first)
    before, numbers = host.state(), host.numbers()
    host.settle(second)
    host.settle(first)
    if host.numbers() == numbers:
        assert host.state() == before
    check(host, first)


@given(HISTORIES, st.integers(0, 60))
def test_a_process_that_dies_anywhere_is_followed_by_one_that_finishes(history, operations):
    host = FakeHost()
    host.light(Fuse(operations))
    try:
        for world in history:
            host.run(world)
    except Crash:
        pass
    host.light(None)
    host.start()
    host.settle(history[-1])
    check(host, history[-1])


ACCIDENTS = (
    "restart of the switch",
    "reboot",
    *(f"{program} hangs {when}" for program in ("switch", "iptables", "nft") for when in ("before", "after")),
)


@given(PAIRS, st.sampled_from(ACCIDENTS))
def test_what_fails_in_between_is_made_right(worlds, accident):
    host, (first, second) = FakeHost(), worlds
    host.settle(first)
    if accident == "restart of the switch":
        host.switch.restart()
        host.switch.add(FOREIGN, "drop", cookie=0x99)
        host.reconciler.need_resync(["flows"], lost=True)
    elif accident == "reboot":
        host.filter.reboot()
        host.start()
    else:
        program, _, when = accident.split()
        host.programs()[program].hang = when
    host.run(second)
    host.settle(second)
    for fake in host.programs().values():
        fake.hang = ""  # nobody has used it
    check(host, second)


@given(WORLDS)
def test_memory_of_earlier_passes_changes_the_cost_and_nothing_else(world):
    host = FakeHost()
    host.settle(world)
    plan, _ = host.planning.afresh(world.snapshot(), world.switch())
    assert host.reconciler.preview(plan) == {}


def connect(host: FakeHost, probes: Iterable[Probe]) -> dict[Connection, Probe]:
    """Let connections begin with *probes*, where connections are tracked; return them."""
    begun = {}
    for probe in probes:
        zone = host.zone(probe)
        if zone is not None:
            mark = EGRESS_CONNMARK if probe.egress else INGRESS_CONNMARK
            service = probe.service if probe.protocol == TCP else probe.service << 8
            port = probe.source_port if probe.protocol == TCP else None
            told = (probe.protocol, probe.source, probe.destination, service, port, mark)
            begun[connection(zone, *told)] = probe
    host.filter.table.connections |= begun.keys()
    return begun


@given(HISTORIES, st.booleans())
def test_connections_end_when_nothing_allows_them_any_more_and_no_sooner(history, restart):
    host = FakeHost()
    table: dict[Connection, Probe] = {}
    for world in history:
        if restart:
            host.start()
        host.settle(world)
        allowed, there = allowed_probes(world), host.filter.own_connections()
        in_force = host.filter.nft.zones()
        for one in there:
            if (
                one.zone in in_force.values()
            ):  # else nothing can belong to it, and its zone is emptied before it is used
                assert one in table, "the zone was not empty when a port got it"
                assert in_force[f"qbr{table[one].suffix}"] == one.zone, "the connection is another port's"
                assert table[one] in allowed, "nothing allows this connection"
        for one, probe in table.items():
            assert one in there or probe not in allowed or host.zone(probe) != one.zone, "it was allowed all the time"
        table = {one: table[one] for one in there & table.keys()} | connect(host, allowed)


@given(WORLDS, st.lists(st.tuples(st.sampled_from(sorted(DEEDS)), st.integers(0, 99)), min_size=1, max_size=3))
def test_one_pass_repairs_what_somebody_did_by_hand_and_what_began_meanwhile_ends(world, deeds):
    host = FakeHost()
    host.settle(world)
    before = host.state()
    for deed, which in deeds:
        meddle(host.filter, deed, which)
    changed = host.state() != before
    allowed = allowed_probes(world)
    begun = connect(host, (probe for probe in probes_of() if probe not in allowed and host.filter.passes(probe)))
    for driver in host.drivers:
        host.reconciler.read_back(driver, 0, 1)
    report = host.run(world)
    assert not report.unfinished
    assert host.misread == 0
    assert host.passing() == allowed
    assert changed == any(done.drifted for done in report.operations.values())
    host.settle(world)
    assert not begun.keys() & host.filter.table.connections
    check(host, world)


class Watched(Fuse):
    """Looks at a host before each thing that is written, and lets it die like any fuse."""

    def __init__(self, host: FakeHost, operations: int = 1_000_000) -> None:
        super().__init__(operations)
        self.host = host
        self.forbidden: list = []  # probes that may not pass now
        self.served: list = []  # probes that may not be kept from passing now
        self.guarded = False  # whether filters stand, so that the bridges alone keep things out, without the flows
        self._zones: set = set()

    def burn(self) -> None:
        self.look()
        super().burn()

    def look(self) -> None:
        kernel = self.host.filter
        wrong = [p for p in self.forbidden if (self.guarded or self.host.is_open(p)) and kernel.passes(p)]
        assert not wrong, f"passes, though neither the old nor the new state allows it: {wrong[0]}"
        lost = [p for p in self.served if not (self.host.is_open(p) and kernel.passes(p))]
        assert not lost, f"is lost, though it does not concern what changes: {lost[0]}"
        zones = {(bridge, zone) for bridge, zone in kernel.nft.zones().items()}
        assert len({zone for _, zone in zones}) == len(zones), f"two bridges have one zone: {sorted(zones)}"
        used = {one.zone for one in kernel.table.connections}
        for bridge, zone in zones - self._zones:
            assert zone not in used, f"{bridge} gets zone {zone} with connections of others"
        self._zones = zones


@FEWER
@given(HISTORIES | ENTANGLED, st.lists(st.integers(0, 60), max_size=3))
def test_nothing_passes_that_neither_the_old_nor_the_new_state_allows_whenever_the_process_dies(history, deaths):
    host, lives = FakeHost(), iter(deaths)
    allowed: frozenset = frozenset()
    fuse = Watched(host)
    for world in history:
        allowed |= allowed_probes(world)
        fuse.forbidden = [probe for probe in probes_of() if probe not in allowed]
        fuse.operations = next(lives, 1_000_000)
        host.light(fuse)
        try:
            host.run(world)
        except Crash:
            host.start()
            continue  # the next process may know a later state already
        fuse.guarded = True
        fuse.look()
        assert host.passing() == allowed_probes(world)
        allowed = allowed_probes(world)
        connect(host, allowed)
    fuse.operations = 1_000_000
    host.settle(history[-1])
    host.light(None)
    check(host, history[-1])


@given(STATES, st.dictionaries(st.sampled_from(NUMBERS), SLOTS, max_size=2), st.booleans())
def test_whom_a_change_does_not_concern_loses_nothing_at_any_moment(first, changed, restart):
    host, second = FakeHost(), replace(first, slots={**first.slots, **changed})
    host.settle(build(first))
    concerned = [number for number in NUMBERS if first.slots.get(number) != second.slots.get(number)]
    fuse = Watched(host)
    fuse.served = [p for p in allowed_probes(build(first)) if PORT_OF[p.suffix] not in concerned and host.is_open(p)]
    fuse.guarded = True
    host.light(fuse)
    if restart:
        host.start()
    host.settle(build(second))
    fuse.look()
    host.light(None)
    check(host, build(second))


# What the kernel may refuse, and what of it: words in rules, the commands.
REFUSALS = st.sets(st.sampled_from(("--dport 22", "hp-4-", "hp-g-", "physdev-in tapp1 ", "-j DROP", "nft", "tap")))


@FEWER
@given(HISTORIES, REFUSALS, st.booleans())
def test_what_cannot_be_made_keeps_ports_shut_and_is_made_once_it_can_be(history, refused, restart):
    host = FakeHost()
    fuse = Watched(host)
    allowed: frozenset = frozenset()
    opened: set[Probe] = set()  # of these ports the instances may go afterwards
    for number, world in enumerate(history):
        if number == len(history) // 2:
            opened = set(filter(host.is_open, DHCP))
            host.refuse(refused)
        allowed |= allowed_probes(world)
        fuse.forbidden = [probe for probe in probes_of() if probe not in allowed]
        host.light(fuse)
        host.run(world)
        fuse.look()
        bridges = host.filter.bridges
        ports = [p for p in DHCP if p.suffix in bridges.plugs]
        # Who was served is cut off, too, when the rule that leads to the new filter is refused: closed, and named.
        named = " ".join(ref.key for ref in host.reconciler.unfinished())
        cut = {p for p in opened if not bridges.has_instance(p.suffix) or f"tap{p.suffix} " in named}
        ports = [p for p in ports if p not in cut]
        dead = [probe for probe in ports if host.is_open(probe) and not host.filter.passes(probe)]
        assert not dead, "a port is open towards the switch, and its filter is not there"
    host.refuse(())
    if restart:
        host.start()
    host.settle(history[-1])
    host.light(None)
    check(host, history[-1])
