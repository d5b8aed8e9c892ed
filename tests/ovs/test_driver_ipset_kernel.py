# SPDX-License-Identifier: Apache-2.0
"""Drivers ``ipset`` and ``members`` with the real kernel, in a network namespace of the test's own.  Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from ipaddress import ip_address

import pytest

from agent.command import CommandRunner
from agent.core.plan import Delta, ObjectId
from agent.drivers.ipset import IpsetDriver
from agent.drivers.members import MembersDriver

CLONE_NEWNET = 0x40000000
NOBODY = ObjectId("")
V4, V6 = "hp-4-0123456789abcdef", "hp-6-0123456789abcdef"
BOTH = {V4: "hash:net family inet", V6: "hash:net family inet6"}


@pytest.fixture(autouse=True)
def _namespace():
    """Run the test in a network namespace that lives as long as this thread stays in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    yield
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture
def sets():
    return IpsetDriver(CommandRunner())


@pytest.fixture
def members():
    return MembersDriver(CommandRunner())


def shell(script):
    return subprocess.run(("sh", "-ec", script), check=True, capture_output=True, text=True).stdout


def saved():
    """Return the elements that ipset itself prints."""
    return sorted(line.removeprefix("add ") for line in shell("ipset save").splitlines() if line.startswith("add "))


def creating(*keys):
    return Delta(creates=dict.fromkeys(keys, ""))


def asked(*keys):
    return dict.fromkeys(keys, NOBODY)


ELEMENTS = (
    f"{V4} 10.0.0.1",
    f"{V4} 10.0.0.0/24",
    f"{V4} 0.0.0.0/1",
    f"{V4} 255.255.255.255",
    f"{V6} 2001:db8::1",
    f"{V6} 2001:db8::/32",
    f"{V6} fe80::/10",
    f"{V6} ::1.2.3.4".replace("1.2.3.4", "102:304"),
)


def test_sets_and_elements_are_made_and_read_back_as_ipset_prints_them(sets, members):
    assert sets.apply(Delta(creates=BOTH)) == {}
    assert members.apply(creating(*ELEMENTS)) == {}

    assert sets.observe() == BOTH
    assert members.observe() == dict.fromkeys(ELEMENTS, "")
    assert members.observe(asked(*ELEMENTS, f"{V4} 10.0.0.2")) == dict.fromkeys(ELEMENTS, "")
    ordinary = [element for element in ELEMENTS if "::102:304" not in element]  # ipset prints that one as ::1.2.3.4
    assert set(ordinary) <= set(saved())

    before = shell("ipset save")
    assert sets.apply(Delta(creates=BOTH)) == {}
    assert members.apply(creating(*ELEMENTS)) == {}
    assert shell("ipset save") == before

    assert members.apply(Delta(deletes=dict.fromkeys(ELEMENTS[:3], ""))) == {}
    assert set(members.observe()) == set(ELEMENTS[3:])
    assert members.apply(Delta(deletes=dict.fromkeys(ELEMENTS, ""))) == {}
    assert sets.apply(Delta(deletes=BOTH)) == {}
    assert shell("ipset save") == ""
    assert members.apply(Delta(deletes=dict.fromkeys(ELEMENTS, ""))) == {}


@pytest.mark.parametrize("around", ["10.0.0.0/24", "0.0.0.0/1", "10.0.0.0/31"])
def test_an_address_is_not_taken_for_the_network_around_it(sets, members, around):
    sets.apply(Delta(creates=BOTH))
    members.apply(creating(f"{V4} {around}", f"{V4} 10.0.0.0"))

    address, other = f"{V4} 10.0.0.1", f"{V4} 10.0.0.0"
    assert members.observe(asked(address, other)) == {other: ""}
    members.apply(creating(address))
    assert members.observe(asked(address, other)) == {address: "", other: ""}


def test_foreign_sets_are_not_seen_and_not_touched(sets, members):
    shell("ipset create other hash:ip,port; ipset add other 10.0.0.1,80; ipset create wanted list:set")
    before = shell("ipset save")
    assert (sets.observe(), members.observe(), sets.observe(asked("other"))) == ({}, {}, {})

    assert sets.apply(Delta(deletes={"other": "hash:ip,port family inet"})) == {}
    failed = members.apply(Delta(creates={"other 10.0.0.2": ""}, deletes={"wanted 10.0.0.1": ""}))
    assert set(failed) == {"other 10.0.0.2", "wanted 10.0.0.1"}
    assert shell("ipset save") == before


def test_what_somebody_changed_by_hand_is_seen_and_put_right(sets, members):
    sets.apply(Delta(creates=BOTH))
    members.apply(creating(*ELEMENTS))
    shell(f"ipset del {V4} 10.0.0.1; ipset add {V4} 192.0.2.1; ipset del {V4} 10.0.0.0/24")
    shell(f"ipset add {V4} 10.0.0.0/24 nomatch; ipset add {V4} 192.0.2.0/24 nomatch")

    seen = members.observe()
    meddled = {f"{V4} 10.0.0.0/24": "nomatch", f"{V4} 192.0.2.0/24": "nomatch", f"{V4} 192.0.2.1": ""}
    assert {key: value for key, value in seen.items() if value or key not in ELEMENTS} == meddled
    assert ELEMENTS[0] not in seen

    assert members.apply(Delta(deletes={f"{V4} 192.0.2.0/24": "nomatch", f"{V4} 192.0.2.1": ""})) == {}
    assert members.apply(Delta(creates={ELEMENTS[0]: ""}, updates={ELEMENTS[1]: ("nomatch", "")})) == {}
    assert members.observe() == dict.fromkeys(ELEMENTS, "")


def test_what_is_refused_is_that_keys_error_and_the_rest_gets_in(sets, members):
    shell(f"ipset create {V4} hash:net family inet maxelem 2; ipset create {V6} hash:net family inet6")
    gone = "hp-4-ffffffffffffffff"
    bad = {f"{V6} 10.0.0.9": "resolving", f"{V4} 300.1.1.1": "is no address", f"{V4} 0.0.0.0/0": "prefix lengths"}
    missing = {f"{gone} 10.0.0.1": "does not exist", f"{gone} 10.0.0.2": "does not exist"}
    first, second, third = (f"{V4} 10.0.0.{number}" for number in (1, 2, 3))

    failed = members.apply(creating(first, *bad, second, *missing, third, f"{V6} 2001:db8::1"))

    assert failed.keys() == {third, *bad, *missing}
    assert "it is full" in str(failed[third])
    for key, text in (bad | missing).items():
        assert text in str(failed[key])
        assert key.split()[0] in str(failed[key])
    assert saved() == sorted((first, second, f"{V6} 2001:db8::1"))


def test_a_set_that_rules_refer_to_is_not_destroyed(sets, members):
    sets.apply(Delta(creates=BOTH))
    shell(f"iptables -A FORWARD -m set --match-set {V4} src -j DROP")

    failed = sets.apply(Delta(deletes=BOTH))

    assert failed.keys() == {V4}
    assert "cannot be destroyed while rules refer to it" in str(failed[V4])
    assert sets.observe() == {V4: BOTH[V4]}
    shell("iptables -F FORWARD")
    assert sets.apply(Delta(deletes=BOTH)) == {}


def test_a_set_that_was_made_differently_is_replaced_and_keeps_its_elements_in_place(sets, members):
    shell(
        f"ipset create {V4} hash:net family inet maxelem 5 counters; ipset add {V4} 10.0.0.1;"
        f" ipset add {V4} 10.1.0.0/16"
    )
    shell(f"iptables -A FORWARD -m set --match-set {V4} src -j DROP")
    assert sets.observe() == {V4: "hash:net family inet counters maxelem 5"}

    assert sets.apply(Delta(updates={V4: ("", BOTH[V4])})) == {}

    assert sets.observe() == {V4: BOTH[V4]}
    assert saved() == [f"{V4} 10.0.0.1", f"{V4} 10.1.0.0/16"]


def test_a_set_of_another_type_is_replaced_unless_rules_refer_to_it(sets, members):
    shell(f"ipset create {V4} hash:ip; ipset add {V4} 10.0.0.1; ipset create {V6} hash:net family inet")
    shell(f"ipset add {V6} 10.0.0.1; iptables -A FORWARD -m set --match-set {V6} src -j DROP")
    assert members.observe() == {f"{V6} 10.0.0.1": ""}
    updates = {name: (value, BOTH[name]) for name, value in sets.observe().items()}

    failed = sets.apply(Delta(updates=updates))

    assert failed.keys() == {V6}
    assert "iptables-save" in str(failed[V6])
    assert sets.observe() == {V4: BOTH[V4], V6: "hash:net family inet maxelem 65536"}


@pytest.mark.alone
def test_ten_thousand_members_at_once_and_one_more(sets, members):
    sets.apply(Delta(creates=BOTH))
    shell("ipset create other hash:ip maxelem 100000")
    many = [f"{V4} {ip_address(0x0A000000 + 3 * number)}" for number in range(10_000)]
    begun = time.perf_counter()
    assert members.apply(creating(*many)) == {}
    written = time.perf_counter()
    assert members.observe() == dict.fromkeys(many, "")
    read = time.perf_counter()
    one = f"{V4} 192.0.2.1"
    assert members.apply(creating(one)) == {}
    assert members.observe(asked(one)) == {one: ""}
    added = time.perf_counter()

    spent = {"write": written - begun, "read": read - written, "one more": added - read}
    # Measured: 70, 12 and 3 ms; the limits allow for a busy machine.
    assert spent["write"] < 1
    assert spent["read"] < 0.2
    assert spent["one more"] < 0.05
