# SPDX-License-Identifier: Apache-2.0
"""Driver ``links`` over devices in memory: wherever it starts and whenever it dies, it gets there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ApplyError
from agent.core.items import Link
from agent.core.plan import Delta, ObjectId
from agent.drivers.device_visit import device_key, split_key
from agent.drivers.devices import (
    GROUP,
    GROUP_ADDRESSED,
    Configure,
    Delete,
    Device,
    DeviceTable,
    End,
    MakeBridge,
    MakeVeth,
    Request,
    Silence,
    is_ours,
)
from agent.drivers.links import LinksDriver
from agent.drivers.namespaces import ForeignError

OWNER = ObjectId("port:1")


class CrashError(BaseException):
    """The process died here.  Not an Exception: nothing in the product may catch it."""


class DevicesInMemory:
    """Devices of a host's namespaces as the kernel has them: a veth goes with its peer, a bridge lets go of its ports.

    After *operations* requests the process that sends them dies; ``refuse`` names
    devices that cannot be made; ``listed`` counts how often all of a namespace were listed.
    """

    def __init__(self, *foreign: Device, spaces: Collection[str] = ()) -> None:
        self.spaces: dict[str, dict[int, Device]] = {"": {device.index: device for device in foreign}}
        self.spaces.update((name, {}) for name in spaces)
        self.operations = 1_000_000
        self.refuse: set[str] = set()
        self.listed = 0

    @property
    def devices(self) -> dict[int, Device]:
        return self.spaces[""]

    def all(self) -> dict[str, Device]:
        """All devices, by their keys."""
        return {
            device_key(space, device.name): device
            for space, devices in self.spaces.items()
            for device in devices.values()
        }

    def tamper(self, key: str, **changes) -> None:
        device = self.all()[key]
        self.spaces[split_key(key)[0]][device.index] = replace(device, **changes)

    def lose(self, space: str) -> None:
        """Take a namespace's name away while somebody keeps it alive, and make another one."""
        self.spaces[f"lost {len(self.spaces)}"] = self.spaces.pop(space)
        self.spaces[space] = {}

    def names(self) -> list[str]:
        return [space for space in self.spaces if space and not space.startswith("lost")]

    def open(self, name: str) -> DeviceTable | None:
        return TableInMemory(self, name) if name in ("", *self.names()) else None

    def burn(self) -> None:
        if self.operations == 0:
            raise CrashError
        self.operations -= 1

    def add(self, made: Mapping[str, Device]) -> ApplyError | None:
        taken = {*self.all(), *self.refuse}
        indexes = {(split_key(key)[0], device.index) for key, device in made.items()}
        if taken & made.keys() or any(index in self.spaces[space] for space, index in indexes):
            return ApplyError("File exists")
        for key, device in made.items():
            self.spaces[split_key(key)[0]][device.index] = device
        return None

    def delete(self, space: str, index: int) -> None:
        gone = self.spaces[space].pop(index, None)
        if gone is None:
            return
        for name, devices in self.spaces.items():
            for device in list(devices.values()):
                if (device.peer, device.index) == (gone.index, gone.peer) and (name != space) == gone.is_peer_elsewhere:
                    del devices[device.index]
                elif name == space and device.master == gone.index:
                    devices[device.index] = replace(device, master=None)


class TableInMemory:
    """One namespace of ``DevicesInMemory``."""

    def __init__(self, kernel: DevicesInMemory, space: str) -> None:
        self.kernel = kernel
        self.space = space

    @property
    def descriptor(self) -> int:
        return list(self.kernel.spaces).index(self.space)

    @property
    def devices(self) -> dict[int, Device]:
        return self.kernel.spaces[self.space]

    def close(self) -> None:
        self.space = "closed"

    def ours(self, wanted: Callable[[str], bool] | None = None) -> list[Device]:
        self.kernel.listed += 1
        ours = (device for device in self.devices.values() if is_ours(device))
        return [device for device in ours if wanted is None or wanted(device.name)]

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        return [device for device in self.devices.values() if device.name in names or device.index in indexes]

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        return [self._write(request) for request in requests]

    def close_host_side(self, name: str) -> None:
        assert self.space == "", "the thread is on the host"
        self.kernel.burn()

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        self.kernel.burn()
        self.kernel.tamper(device_key(self.space, name), tx_checksum=enabled)

    def _write(self, request: Request) -> ApplyError | None:
        self.kernel.burn()
        match request:
            case MakeBridge(end, mtu):
                return self.kernel.add({device_key(self.space, end.name): _shut(end, "bridge", mtu)})
            case MakeVeth():
                return self._add_pair(request)
            case Silence(index):
                return None if index in self.devices else ApplyError("No such device")
            case Configure(present, wanted):
                if present.index not in self.devices:
                    return ApplyError("No such device")
                self.devices[present.index] = replace(
                    self.devices[present.index],
                    alias=wanted.alias,
                    mtu=wanted.mtu,
                    master=wanted.master,
                    up=wanted.up,
                    address=wanted.address if wanted.group == GROUP_ADDRESSED else None,
                    group=wanted.group,
                )
            case Delete(index):
                self.kernel.delete(self.space, index)
        return None

    def _add_pair(self, request: MakeVeth) -> ApplyError | None:
        there = self.space if request.peer_namespace is None else list(self.kernel.spaces)[request.peer_namespace]
        elsewhere = there != self.space
        one, other = (_shut(end, "veth", request.mtu) for end in (request.end, request.peer))
        one = replace(one, peer=other.index, is_peer_elsewhere=elsewhere)
        other = replace(other, peer=one.index, is_peer_elsewhere=elsewhere, alias="" if elsewhere else other.alias)
        return self.kernel.add({device_key(self.space, one.name): one, device_key(there, other.name): other})


def _shut(end: End, kind: str, mtu: int) -> Device:
    group = GROUP if end.address is None else GROUP_ADDRESSED
    return Device(end.index, end.name, kind, mtu, False, end.alias, address=end.address, group=group)


def reconcile(driver: LinksDriver, desired: dict[str, Link]) -> tuple[Delta, dict[str, Exception]]:
    """Make what is there equal to *desired*, as the reconciler does; return what was written and what failed."""
    actual = driver.observe()
    delta = Delta(
        creates={key: link for key, link in desired.items() if key not in actual},
        updates={key: (actual[key], desired[key]) for key in actual.keys() & desired if actual[key] != desired[key]},
        deletes={key: link for key, link in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )
    return delta, driver.apply(delta) if delta else {}


def hybrid(number: int, owner: str = "port:1", mtu: int = 1450, up: bool = True) -> dict[str, Link]:
    qbr, qvb, qvo = (f"{prefix}{number}" for prefix in ("qbr", "qvb", "qvo"))
    links = (
        Link(qbr, "bridge", owner, mtu, up=up),
        Link(qvb, "veth", owner, mtu, peer=qvo, master=qbr, tx_checksum=False, up=up),
        Link(qvo, "veth", owner, mtu, peer=qvb, up=up),
    )
    return {link.name: link for link in links}


def crossed(owner: str, mtu: int) -> dict[str, Link]:
    """The devices of two hybrid plugs, connected the other way round, and one of another kind."""
    links = (
        Link("qvb1", "veth", owner, mtu, peer="qvo2"),
        Link("qvo2", "veth", owner, mtu, peer="qvb1"),
        Link("qvb2", "veth", owner, mtu, peer="qbr1"),
        Link("qbr1", "veth", owner, mtu, peer="qvb2"),
    )
    return {link.name: link for link in links}


def service(owner: str, mtu: int, address: str | None = None, space: str = "inner") -> dict[str, Link]:
    """A pair with its ends in two namespaces, as DHCP, metadata and routers use it."""
    key = f"{space}/qvb9"
    return {
        "qvo9": Link("qvo9", "veth", owner, mtu, peer=key),
        key: Link("qvb9", "veth", owner, mtu, peer="qvo9", tx_checksum=False, namespace=space, address=address),
    }


OWNERS = st.sampled_from(["port:1", "port:2"])
MTUS = st.sampled_from([1400, 1450])
PLUGS = st.builds(hybrid, st.sampled_from([1, 2]), OWNERS, MTUS, st.booleans())
STATES = st.lists(PLUGS, max_size=2).map(lambda plugs: {key: link for plug in plugs for key, link in plug.items()})
ADDRESSES = st.sampled_from([None, "02:00:00:00:00:01", "02:00:00:00:00:02"])
SPACES = ("inner", "other")
SERVICES = st.builds(service, OWNERS, MTUS, ADDRESSES, st.sampled_from(SPACES))
PLAIN = st.one_of(STATES, st.builds(crossed, OWNERS, MTUS))
DESIRED = st.one_of(PLAIN, st.builds(lambda one, other: one | other, PLAIN, SERVICES))
TAMPERING = st.fixed_dictionaries(
    {},
    optional={
        "up": st.booleans(),
        "mtu": st.just(1300),
        "master": st.sampled_from([None, 7]),
        "tx_checksum": st.booleans(),
        "alias": st.just("hostplane:port:3"),
        "group": st.just(0),
    },
)
FOREIGN = (
    Device(7, "docker0", "bridge", 1500, True),
    Device(8, "tap1", "veth", 1450, True, alias="hostplane:plug:1"),
    Device(9, "eth0", "", 1500, True, alias="uplink"),
)


@given(
    history=st.lists(DESIRED, min_size=1, max_size=4),
    tampering=TAMPERING,
    lost=st.sampled_from([None, None, *SPACES]),
)
def test_the_end_depends_only_on_the_last_desired_state(history, tampering, lost):
    kernel = DevicesInMemory(*FOREIGN, spaces=SPACES)
    driver = LinksDriver(lambda: kernel)
    for desired in history:
        assert reconcile(driver, desired)[1] == {}
        if lost is not None:
            kernel.lose(lost)
        for name in sorted(desired.keys() & kernel.all())[-1:]:  # always a veth
            kernel.tamper(name, **tampering)
        assert by_place(driver) == by_place(LinksDriver(lambda: kernel)) == driver.observe()

    assert reconcile(driver, history[-1])[1] == {}
    assert driver.observe() == history[-1]
    assert not reconcile(LinksDriver(lambda: kernel), history[-1])[0], "a second pass has nothing to do"
    assert [kernel.devices[device.index] for device in FOREIGN] == list(FOREIGN)


@given(before=DESIRED, after=DESIRED, operations=st.integers(0, 20))
def test_a_process_that_died_anywhere_leaves_what_the_next_one_can_finish(before, after, operations):
    kernel = DevicesInMemory(*FOREIGN, spaces=SPACES)
    reconcile(LinksDriver(lambda: kernel), before)
    kernel.operations = operations
    with contextlib.suppress(CrashError):
        reconcile(LinksDriver(lambda: kernel), after)
    kernel.operations = 1_000_000

    fresh = LinksDriver(lambda: kernel)
    assert reconcile(fresh, after)[1] == {}
    assert fresh.observe() == after


def test_a_pair_that_cannot_be_made_fails_at_both_ends_and_alone():
    kernel = DevicesInMemory()
    kernel.refuse = {"qvo1"}
    driver = LinksDriver(lambda: kernel)

    failed = reconcile(driver, hybrid(1) | hybrid(2))[1]

    assert {key: str(err) for key, err in failed.items()} == {
        "qvb1": "device qvb1: File exists",
        "qvo1": "device qvb1: File exists",
    }
    assert driver.observe() == hybrid(2) | {"qbr1": hybrid(1)["qbr1"]}


def test_a_device_whose_bridge_is_missing_is_not_brought_up():
    kernel = DevicesInMemory()
    kernel.refuse = {"qbr1"}

    failed = reconcile(LinksDriver(lambda: kernel), hybrid(1))[1]

    assert str(failed["qvb1"]) == "device qvb1: qbr1 does not exist"
    assert not kernel.all()["qvb1"].up


def by_place(driver):
    """What is read one place after the other, each of which reads only what belongs there."""
    found: dict[str, object] = {}
    for place in driver.places():
        part = driver.observe_place(place)
        assert {driver.place_of(key) for key in part} <= {place}
        found |= part
    return found


class CrowdedDevices(DevicesInMemory):
    """Whatever numbers are asked for first, one of them is taken."""

    def open(self, name: str) -> DeviceTable | None:
        return CrowdedTable(self, name)


class CrowdedTable(TableInMemory):
    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        if indexes and not self.devices:
            self.devices[max(indexes)] = Device(max(indexes), "other", "bridge", 1500, True)
        return super().find(names=names, indexes=indexes)


def test_the_number_of_another_device_is_not_taken_for_a_new_one():
    kernel = CrowdedDevices()

    assert reconcile(LinksDriver(lambda: kernel), hybrid(1))[1] == {}
    assert kernel.all()["other"].alias == "", "the mark would have gone to a foreign device"
    assert kernel.all().keys() == {"other", *hybrid(1)}


def test_writing_and_reading_back_a_few_does_not_list_all():
    kernel = DevicesInMemory()
    driver = LinksDriver(lambda: kernel)
    wanted = hybrid(1)

    assert driver.apply(Delta(creates=wanted, owners=dict.fromkeys(wanted, OWNER))) == {}
    assert driver.observe(dict.fromkeys(wanted, OWNER)) == wanted
    assert kernel.listed == 0


def test_a_pair_whose_namespace_has_lost_its_name_is_made_anew():
    kernel = DevicesInMemory(spaces=["inner"])
    driver, wanted = LinksDriver(lambda: kernel), service("port:1", 1450, "02:00:00:00:00:01")
    reconcile(driver, wanted)
    before = kernel.all()["qvo9"].index
    kernel.lose("inner")

    assert driver.observe() == {"qvo9": replace(wanted["qvo9"], peer=None)}
    assert reconcile(driver, wanted)[1] == {}
    assert driver.observe() == wanted
    assert kernel.all()["qvo9"].index != before


def test_a_pair_into_a_namespace_that_is_not_there_fails_and_says_which():
    kernel = DevicesInMemory()

    failed = reconcile(LinksDriver(lambda: kernel), service("port:1", 1450) | hybrid(1))[1]

    assert {key: str(err) for key, err in failed.items()} == {
        key: f"device {key}: there is no namespace inner of hostplane's" for key in ("qvo9", "inner/qvb9")
    }
    assert kernel.all().keys() == hybrid(1).keys()


def test_a_foreign_device_in_a_namespace_is_not_touched_and_is_the_operators():
    kernel = DevicesInMemory(spaces=["inner"])
    kernel.spaces["inner"][5] = foreign = Device(5, "qvb9", "veth", 1500, True, peer=6)

    failed = reconcile(LinksDriver(lambda: kernel), service("port:1", 1450))[1]

    assert isinstance(failed["inner/qvb9"], ForeignError)
    assert str(failed["qvo9"]) == "device inner/qvb9 exists and was not made by hostplane"
    assert kernel.all() == {"inner/qvb9": foreign}


def test_loading_and_using_the_driver_does_not_load_the_netlink_library():
    statement = "import sys; from agent.drivers.links import LinksDriver; LinksDriver().observe(); "

    argv = [sys.executable, "-c", statement + "sys.exit('pyroute2' in sys.modules)"]
    assert subprocess.run(argv, check=False).returncode == 0
