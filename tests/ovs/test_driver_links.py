# SPDX-License-Identifier: Apache-2.0
"""Driver ``links`` on the real kernel, in a network namespace of the test's own.  Needs root."""

import ctypes
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.items import Link
from agent.core.plan import Delta, ObjectId
from agent.drivers.links import LinksDriver
from agent.offload import TxChecksum

CLONE_NEWNET = 0x40000000
OWNER = ObjectId("port:1")


@pytest.fixture
def driver():
    """A driver in a namespace that lives as long as this thread stays in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    yield LinksDriver()
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


def ip(*words):
    return subprocess.run(("ip", *words), check=True, capture_output=True, text=True).stdout


def devices():
    """All devices as ip prints them, but for the operational state: that follows in the kernel's own time."""
    return re.sub(r" state [A-Z]+", "", ip("-o", "link"))


def creating(*links):
    return Delta(creates={link.name: link for link in links}, owners={link.name: OWNER for link in links})


BRIDGE = Link("qbr1", "bridge", "port:1", 1450)
INNER = Link("qvb1", "veth", "port:1", 1450, peer="qvo1", master="qbr1", tx_checksum=False)
OUTER = Link("qvo1", "veth", "port:1", 1450, peer="qvb1")
ALL = {link.name: link for link in (BRIDGE, INNER, OUTER)}


def test_devices_are_made_marked_connected_and_read_back(driver):
    assert driver.apply(creating(OUTER, INNER, BRIDGE)) == {}

    assert driver.observe() == ALL
    assert driver.observe({"qvb1": OWNER, "lo": OWNER}) == {"qvb1": INNER}
    assert "alias hostplane:port:1" in ip("link", "show", "qvb1")
    assert Path("/proc/sys/net/ipv6/conf/qbr1/disable_ipv6").read_text() == "1\n"


def test_writing_the_same_again_changes_nothing(driver):
    driver.apply(creating(*ALL.values()))
    before = devices()

    assert driver.apply(creating(*ALL.values())) == {}
    assert devices() == before


def test_everything_that_somebody_changes_is_seen_and_put_right(driver):
    driver.apply(creating(*ALL.values()))
    ip("link", "set", "qvb1", "mtu", "1300", "nomaster")
    ip("link", "set", "qvo1", "down")
    subprocess.run(("ethtool", "-K", "qvb1", "tx", "on"), check=True, capture_output=True)
    ip("link", "set", "qbr1", "alias", "hostplane:port:2")

    seen = driver.observe()
    changed = {key for key in ALL if seen[key] != ALL[key]}
    assert changed == set(ALL)
    assert seen["qvo1"] == replace(OUTER, up=False)

    updates = {key: (seen[key], ALL[key]) for key in ALL}
    assert driver.apply(Delta(updates=updates, owners=dict.fromkeys(updates, OWNER))) == {}
    assert driver.observe() == ALL


def test_a_device_of_another_kind_or_with_another_peer_is_made_anew(driver):
    driver.apply(creating(Link("qvb1", "bridge", "port:1", 1450), Link("x1", "veth", "port:1", 1450, peer="qvo1")))

    assert driver.apply(creating(*ALL.values())) == {}
    assert driver.observe() == ALL


def test_foreign_devices_are_never_touched(driver):
    ip("link", "add", "qbr1", "type", "bridge")
    ip("link", "add", "qvo1", "type", "veth", "peer", "name", "other")
    ip("link", "add", "tap9", "type", "bridge")
    ip("link", "set", "tap9", "alias", "hostplane:plug:9")
    other = Link("qbr2", "bridge", "port:2", 1450)
    before = devices()

    failed = driver.apply(creating(BRIDGE, INNER, OUTER, other))

    assert {key: str(err) for key, err in failed.items()} == {
        "qbr1": "device qbr1 exists and was not made by hostplane",
        "qvb1": "device qvo1 exists and was not made by hostplane",
        "qvo1": "device qvo1 exists and was not made by hostplane",
    }
    assert driver.observe() == {"qbr2": other}
    assert driver.apply(Delta(deletes={"qbr1": BRIDGE, "tap9": BRIDGE, "qbr2": other})) == {}
    assert devices() == before


def test_deleting_takes_both_ends_and_what_is_gone_is_no_error(driver):
    driver.apply(creating(*ALL.values()))
    ip("link", "del", "qbr1")

    assert driver.apply(Delta(deletes=ALL)) == {}
    assert driver.observe() == {}
    assert driver.apply(Delta(deletes=ALL)) == {}


def test_one_device_that_cannot_be_made_does_not_hinder_the_others(driver):
    bad = Link("much-too-long-name-1", "bridge", "port:3", 1450)
    lost = Link("qvb3", "veth", "port:3", 1450, peer="qvo3", master="nowhere")

    failed = driver.apply(creating(bad, lost, *ALL.values()))

    assert set(failed) == {"much-too-long-name-1", "qvb3"}
    assert str(failed["qvb3"]) == "device qvb3: nowhere does not exist"
    assert {key: value for key, value in driver.observe().items() if key in ALL} == ALL


def hybrid_plugs(count):
    links = []
    for n in range(count):
        links.append(Link(f"qbr{n}", "bridge", f"port:{n}", 1450))
        links.append(Link(f"qvb{n}", "veth", f"port:{n}", 1450, f"qvo{n}", f"qbr{n}", tx_checksum=False))
        links.append(Link(f"qvo{n}", "veth", f"port:{n}", 1450, f"qvb{n}"))
    return links


def test_of_a_long_batch_each_refusal_is_told_of_the_right_device(driver):
    unmade = [Link(f"not:allowed{n}", "bridge", "port:9", 1450) for n in range(5)]
    nested = [Link(f"nested{n}", "bridge", "port:9", 1450, master="qbr1") for n in range(5)]
    small = [Link(f"small{n}", "veth", "port:9", 1, f"other{n}") for n in range(5)]
    good = hybrid_plugs(50)
    mixed = [*unmade, *nested, *small, *good]
    random.Random(1).shuffle(mixed)

    failed = driver.apply(creating(*mixed, Link("last:one", "bridge", "port:9", 1450)))

    assert {key: str(err) for key, err in failed.items()} == {
        "last:one": "device last:one: Invalid argument",
        **{link.name: f"device {link.name}: Invalid argument" for link in (*unmade, *small)},
        **{
            link.name: f"device {link.name}: Too many levels of symbolic links (Can not enslave a bridge to a bridge)"
            for link in nested
        },
    }
    seen = driver.observe()
    assert {link.name: seen[link.name] for link in good} == {link.name: link for link in good}


CHILD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_driver_links import Delta, LinksDriver, hybrid_plugs
LinksDriver().apply(Delta(creates={{link.name: link for link in hybrid_plugs(100)}}))
"""


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_process_that_is_killed_leaves_no_unmarked_device(driver, share):
    child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 30
    while len(socket.if_nameindex()) < 1 + 300 * share:
        assert child.poll() is None
        assert time.monotonic() < deadline
    child.kill()
    child.wait()

    unmarked = [
        line for line in ip("-o", "link").splitlines() if "alias hostplane:" not in line and ": lo:" not in line
    ]
    assert unmarked == []
    wanted = {link.name: link for link in hybrid_plugs(100)}
    assert driver.apply(Delta(creates=wanted)) == {}
    assert driver.observe() == wanted


def test_a_device_that_is_wanted_down_is_kept_down(driver):
    shut = replace(BRIDGE, up=False)

    assert driver.apply(creating(shut)) == {}
    assert driver.observe() == {"qbr1": shut}
    ip("link", "set", "qbr1", "up")
    assert driver.apply(Delta(updates={"qbr1": (BRIDGE, shut)})) == {}
    assert driver.observe() == {"qbr1": shut}
    assert ip("-o", "link", "show", "up", "dev", "qbr1") == ""


def test_a_device_of_ours_that_leads_elsewhere_is_read_with_what_it_leads_to(driver):
    driver.apply(creating(*ALL.values()))
    ip("link", "add", "foreign", "type", "bridge")
    ip("link", "set", "qvb1", "master", "foreign")

    assert driver.observe()["qvb1"] == replace(INNER, master="foreign")
    assert driver.observe({"qvb1": OWNER}) == {"qvb1": replace(INNER, master="foreign")}


def test_nothing_of_ours_is_missed_while_other_devices_come_and_go(driver):
    driver.apply(creating(*ALL.values()))
    others = "".join(f"link add foreign{n} type veth peer name other{n}\n" for n in range(60))
    subprocess.run(("ip", "-batch", "-"), input=others, check=True, text=True)  # the list takes several messages
    churn = "while ip link add x1 type bridge && sleep 0.02 && ip link del x1 && sleep 0.02; do :; done"
    restless = subprocess.Popen(["sh", "-c", churn])
    try:
        assert all(driver.observe() == ALL for _ in range(100))
    finally:
        restless.terminate()
        restless.wait()


def test_offload_is_told_and_switched_like_ethtool_does(driver):
    driver.apply(creating(*ALL.values()))
    with TxChecksum() as checksum:
        assert (checksum.enabled("qvb1"), checksum.enabled("qvo1")) == (False, True)
        checksum.switch("qvb1", True)
        assert "tx-checksumming: on" in subprocess.check_output(("ethtool", "-k", "qvb1"), text=True)
        with pytest.raises(OSError, match="No such device: 'nowhere'"):
            checksum.enabled("nowhere")


@pytest.mark.alone
def test_a_hundred_hybrid_plugs_in_one_go(driver):
    links = hybrid_plugs(100)
    started = time.perf_counter()
    assert driver.apply(creating(*links)) == {}
    written = time.perf_counter()
    assert driver.observe() == {link.name: link for link in links}
    read = time.perf_counter()

    print(f"300 devices: written in {written - started:.3f} s, read in {read - written:.3f} s")
    assert read - written < 1.0
