# SPDX-License-Identifier: Apache-2.0
"""The watches of devices and packet filters on the real kernel, in a namespace of the test's own.  Needs root."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from agent.drivers.link_watch import LinkWatch
from agent.drivers.nft_watch import LegacyWatch, NftWatch
from tests.ovs.zone_bridges import namespace, shell

DEADLINE = 10.0  # seconds


class Calls:
    """Counts calls, and waits for one; ``told`` are their arguments."""

    def __init__(self) -> None:
        self.count = 0
        self.told: list[object] = []
        self._condition = threading.Condition()

    def __call__(self, *told: object) -> None:
        with self._condition:
            self.count += 1
            self.told += told
            self._condition.notify_all()

    def after(self, script: str) -> float:
        """Run *script* and wait for a call; return the seconds until it came, less than those of the script."""
        with self._condition:
            before, begun = self.count, time.monotonic()
            shell(script)
            assert self._condition.wait_for(lambda: self.count > before, DEADLINE), f"nobody was told of {script}"
            return time.monotonic() - begun


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:g} s"
        time.sleep(0.01)


class Watch(Protocol):
    def start(self) -> object: ...

    def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with namespace():
        yield


@contextlib.contextmanager
def running(watch: Watch) -> Iterator[None]:
    watch.start()
    try:
        yield
    finally:
        threads = threading.active_count()
        watch.stop()
        assert threading.active_count() == threads - 1


def test_devices_that_are_asked_for_by_name_are_noticed_and_no_others():
    calls = Calls()
    with running(LinkWatch(calls, ("hp-dhcp", "hp-meta"))):
        calls.after("ip link add hp-dhcp type veth peer name other")
        shell("ip link set hp-dhcp up; ip link set other up; ip link add tapa type veth peer name eth0")
        calls.after("ip link add hp-meta type veth peer name another")
        calls.told.clear()
        calls.after("ip link del another")
        calls.after("ip link del hp-dhcp")
        assert calls.told == [frozenset({"hp-meta"}), frozenset({"hp-dhcp"})]


def test_devices_of_hybrid_plugs_are_noticed_and_others_are_not():
    calls = Calls()
    with running(LinkWatch(calls)):
        calls.after("ip link add qbra up type bridge")  # of one that is shut the kernel tells nothing
        settled = calls.count
        shell("ip link set qbra type bridge nf_call_iptables 1 nf_call_ip6tables 1")  # as we do
        calls.after("ip link set qbra type bridge nf_call_ip6tables 0")
        assert calls.count == settled + 1
        calls.after("ip link add tapa type veth peer name eth0")
        calls.after("ip link set tapa master qbra")
        settled = calls.count
        shell("ip link add br9 type bridge; ip link add eth8 type veth peer name eth9; ip link set eth8 master br9")
        shell(
            "ip link set tapa up; ip link set eth0 up; ip link set eth0 down; ip link set eth0 up; ip link set br9 up"
        )
        calls.after("ip link set tapa nomaster")
        assert calls.count == settled + 1
        calls.after("ip link set eth9 name qvb9")
        calls.told.clear()
        calls.after("ip link set qvb9 name eth9")
        calls.after("ip link del tapa")
        calls.after("ip link del qbra")
        assert set(calls.told) == {frozenset({"qvb9"}), frozenset({"tapa"}), frozenset({"qbra"})}


def test_more_news_than_fit_are_news():
    calls = Calls()
    release = threading.Event()

    def slow(devices: frozenset[str] | None) -> None:
        calls(devices)
        release.wait(DEADLINE)  # meanwhile the kernel's buffer runs over

    with running(LinkWatch(slow)):
        calls.after("ip link add qbra up type bridge")  # of one that is shut the kernel tells nothing
        shell("for i in $(seq 800); do echo link set qbra mtu $((1000 + i)); done | ip -batch -")
        release.set()
        calls.after("ip link set qbra name qbrb")
    assert None in calls.told


def test_a_watch_that_was_never_started_can_be_stopped():
    LinkWatch(Calls()).stop()
    NftWatch(Calls(), lambda pid, name: True).stop()


def test_changes_of_others_are_noticed_and_ours_are_not():
    calls, ours, seen = Calls(), threading.Event(), []

    def is_ours(pid: int, name: str) -> bool:
        seen.append((pid, name))
        return ours.is_set()

    with running(NftWatch(calls, is_ours)):
        calls.after("nft add table inet x")
        assert seen[-1][0] > 1
        assert seen[-1][1] == "nft"
        calls.after("iptables-nft -A FORWARD -j DROP")
        assert seen[-1][1].startswith("iptables")
        ours.set()
        shell("nft add table inet ours")
        eventually(lambda: seen[-1][1] == "nft", "all before it was told")
        count = calls.count
        shell(
            "nft add table inet y; nft delete table inet y;"
            " iptables-nft -A FORWARD -j DROP; ip6tables-nft -A INPUT -j DROP"
        )
        eventually(lambda: seen[-1][1].startswith("ip6tables"), "the last of ours was seen")
        assert calls.count == count
        ours.clear()
        rules = "".join(f"-A FORWARD -s 10.{n >> 8}.{n & 255}.1 -j DROP\\n" for n in range(1000))
        calls.after(f"printf '*filter\\n{rules}COMMIT\\n' | iptables-nft-restore --noflush")
        assert calls.count == count + 1
        calls.after("nft flush ruleset")


def test_who_changes_something_all_the_time_does_not_fill_the_log(caplog):
    caplog.set_level("INFO", logger="agent.drivers.nft_watch")
    calls = Calls()
    with running(NftWatch(calls, lambda pid, name: False)):
        for _ in range(5):
            calls.after("nft add table inet x; nft delete table inet x")
        calls.after("iptables-nft -A FORWARD -j DROP")
        calls.after("nft flush ruleset")
    assert [record.args[1] for record in caplog.records] == ["nft", "iptables-nft"]


def test_legacy_tables_are_looked_at_and_own_changes_can_be_told():
    shell("iptables-legacy -A FORWARD -j DROP; ip6tables-legacy -A FORWARD -j DROP")
    calls = Calls()
    watch = LegacyWatch(calls, seconds=0.05)
    with running(watch):
        calls.after("iptables-legacy -F FORWARD")
        count = calls.count
        shell("ip6tables-legacy -A FORWARD -j ACCEPT")
        watch.note()
        calls.after("ip6tables-legacy -N x")
        assert calls.count == count + 1


def test_a_kernel_without_legacy_tables_is_no_reason_to_fail():
    watch = LegacyWatch(Calls(), ("nosuchtable",))
    assert not watch.start()
    watch.stop()
