# SPDX-License-Identifier: Apache-2.0
"""Driver ``links`` over devices in memory: wherever it starts and whenever it dies, it gets there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ApplyError
from agent.core.items import Link
from agent.core.plan import Delta, ObjectId
from agent.drivers.devices import Configure, Delete, Device, MakeBridge, MakeVeth, Request
from agent.drivers.links import LinksDriver

OWNER = ObjectId("port:1")


class CrashError(BaseException):
    """The process died here.  Not an Exception: nothing in the product may catch it."""


class DevicesInMemory:
    """Devices as the kernel has them: a veth goes with its peer, a bridge lets go of its ports.

    After *operations* requests the process that sends them dies; ``refuse`` names
    devices that cannot be made; ``listed`` counts how often all were listed.
    """

    def __init__(self, *foreign: Device) -> None:
        self.devices = {device.index: device for device in foreign}
        self.operations = 1_000_000
        self.refuse: set[str] = set()
        self.listed = 0

    def names(self) -> dict[str, Device]:
        return {device.name: device for device in self.devices.values()}

    def tamper(self, name: str, **changes) -> None:
        device = self.names()[name]
        self.devices[device.index] = replace(device, **changes)

    def marked(self, mark: str, but_not: str) -> list[Device]:
        self.listed += 1
        aliases = ((device, device.alias) for device in self.devices.values())
        return [device for device, alias in aliases if alias.startswith(mark) and not alias.startswith(but_not)]

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        return [device for device in self.devices.values() if device.name in names or device.index in indexes]

    def write(self, requests: Sequence[Request]) -> list[ApplyError | None]:
        return [self._write(request) for request in requests]

    def close_host_side(self, name: str) -> None:
        self._burn()

    def switch_tx_checksum(self, name: str, enabled: bool) -> None:
        self._burn()
        self.tamper(name, tx_checksum=enabled)

    def _burn(self) -> None:
        if self.operations == 0:
            raise CrashError
        self.operations -= 1

    def _write(self, request: Request) -> ApplyError | None:
        self._burn()
        match request:
            case MakeBridge():
                return self._add(Device(request.index, request.name, "bridge", request.mtu, False, request.alias))
            case MakeVeth():
                one = Device(request.index, request.name, "veth", request.mtu, False, request.alias)
                other = Device(request.peer_index, request.peer, "veth", request.mtu, False, request.peer_alias)
                return self._add(replace(one, peer=other.index), replace(other, peer=one.index))
            case Configure():
                if request.present.index not in self.devices:
                    return ApplyError("No such device")
                wanted = request.wanted
                self.tamper(
                    request.present.name, alias=wanted.alias, mtu=wanted.mtu, master=wanted.master, up=wanted.up
                )
            case Delete():
                gone = self.devices.pop(request.index, None)
                for device in list(self.devices.values()):
                    if gone is not None and device.peer == gone.index:
                        del self.devices[device.index]
                    elif gone is not None and device.master == gone.index:
                        self.devices[device.index] = replace(device, master=None)
        return None

    def _add(self, *made: Device) -> ApplyError | None:
        taken = {*self.names(), *self.refuse}
        if any(device.name in taken or device.index in self.devices for device in made):
            return ApplyError("File exists")
        self.devices.update((device.index, device) for device in made)
        return None


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


OWNERS = st.sampled_from(["port:1", "port:2"])
MTUS = st.sampled_from([1400, 1450])
PLUGS = st.builds(hybrid, st.sampled_from([1, 2]), OWNERS, MTUS, st.booleans())
STATES = st.lists(PLUGS, max_size=2).map(lambda plugs: {key: link for plug in plugs for key, link in plug.items()})
DESIRED = st.one_of(STATES, st.builds(crossed, OWNERS, MTUS))
TAMPERING = st.fixed_dictionaries(
    {},
    optional={
        "up": st.booleans(),
        "mtu": st.just(1300),
        "master": st.sampled_from([None, 7]),
        "tx_checksum": st.booleans(),
        "alias": st.just("hostplane:port:3"),
    },
)
FOREIGN = (
    Device(7, "docker0", "bridge", 1500, True),
    Device(8, "tap1", "veth", 1450, True, alias="hostplane:plug:1"),
    Device(9, "eth0", "", 1500, True, alias="uplink"),
)


@given(history=st.lists(DESIRED, min_size=1, max_size=4), tampering=TAMPERING)
def test_the_end_depends_only_on_the_last_desired_state(history, tampering):
    kernel = DevicesInMemory(*FOREIGN)
    driver = LinksDriver(lambda: kernel)
    for desired in history:
        assert reconcile(driver, desired)[1] == {}
        for name in sorted(desired)[-1:]:  # always a veth
            kernel.tamper(name, **tampering)

    assert reconcile(driver, history[-1])[1] == {}
    assert driver.observe() == history[-1]
    assert not reconcile(LinksDriver(lambda: kernel), history[-1])[0], "a second pass has nothing to do"
    assert [kernel.devices[device.index] for device in FOREIGN] == list(FOREIGN)


@given(before=DESIRED, after=DESIRED, operations=st.integers(0, 20))
def test_a_process_that_died_anywhere_leaves_what_the_next_one_can_finish(before, after, operations):
    kernel = DevicesInMemory(*FOREIGN)
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
    assert not kernel.names()["qvb1"].up


class CrowdedDevices(DevicesInMemory):
    """Whatever numbers are asked for first, one of them is taken."""

    def find(self, *, names: Collection[str] = (), indexes: Collection[int] = ()) -> list[Device]:
        if indexes and not self.devices:
            self.devices[max(indexes)] = Device(max(indexes), "other", "bridge", 1500, True)
        return super().find(names=names, indexes=indexes)


def test_the_number_of_another_device_is_not_taken_for_a_new_one():
    kernel = CrowdedDevices()

    assert reconcile(LinksDriver(lambda: kernel), hybrid(1))[1] == {}
    assert kernel.names()["other"].alias == "", "the mark would have gone to a foreign device"
    assert kernel.names().keys() == {"other", *hybrid(1)}


def test_writing_and_reading_back_a_few_does_not_list_all():
    kernel = DevicesInMemory()
    driver = LinksDriver(lambda: kernel)
    wanted = hybrid(1)

    assert driver.apply(Delta(creates=wanted, owners=dict.fromkeys(wanted, OWNER))) == {}
    assert driver.observe(dict.fromkeys(wanted, OWNER)) == wanted
    assert kernel.listed == 0


def test_loading_the_driver_does_not_load_the_netlink_library():
    statement = "import sys, agent.drivers.links, agent.offload; sys.exit('pyroute2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0
