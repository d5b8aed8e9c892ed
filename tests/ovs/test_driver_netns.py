# SPDX-License-Identifier: Apache-2.0
"""Driver ``netns`` on the real kernel, with a /run/netns of the test's own.  Needs root."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.core.errors import Actor
from agent.core.plan import Delta
from agent.drivers.namespaces import ForeignError, names
from agent.drivers.netns import NetnsDriver
from agent.namespace import FOLDER
from tests.ovs.namespace_lab import host, run, within

NAME, OTHER = "hpb-one", "hpb-two"
OWNERS = {NAME: "responder", OTHER: "router:1"}


@pytest.fixture(autouse=True)
def _host():
    with host():
        yield


@pytest.fixture
def driver():
    return NetnsDriver()


def own_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_a_namespace_is_made_marked_and_named_as_ip_netns_does(driver):
    home = own_namespace()

    assert driver.apply(Delta(creates=OWNERS)) == {}

    assert driver.observe() == OWNERS
    assert driver.observe({OTHER: "x", "hpb-nowhere": "x"}) == {OTHER: "router:1"}
    assert run("ip", "netns", "list").split() == [OTHER, NAME]
    shown = within(NAME, "ip", "link", "show", "lo")
    assert "alias hostplane:netns:responder" in shown
    assert "LOOPBACK,UP" in shown
    assert own_namespace() == home
    assert f" {FOLDER} rw" in Path("/proc/thread-self/mountinfo").read_text()


def test_writing_the_same_again_makes_no_other_namespace(driver):
    driver.apply(Delta(creates=OWNERS))
    before = Path("/proc/thread-self/mountinfo").read_text()

    assert driver.apply(Delta(creates=OWNERS)) == {}
    assert Path("/proc/thread-self/mountinfo").read_text() == before


def test_what_somebody_changes_is_seen_and_put_right(driver):
    driver.apply(Delta(creates=OWNERS))
    inode = (FOLDER / NAME).stat().st_ino
    within(NAME, "ip", "link", "set", "lo", "down")
    within(OTHER, "ip", "link", "set", "lo", "alias", "hostplane:netns:router:2")

    seen = driver.observe()
    assert seen == {NAME: "lo down responder", OTHER: "router:2"}
    assert driver.apply(Delta(updates={name: (seen[name], OWNERS[name]) for name in OWNERS})) == {}
    assert driver.observe() == OWNERS
    assert (FOLDER / NAME).stat().st_ino == inode


def test_names_of_others_are_never_touched_and_are_the_operators(driver):
    run("ip", "netns", "add", NAME)
    within(NAME, "ip", "link", "set", "lo", "alias", "of somebody else")
    (FOLDER / OTHER).touch()
    before = within(NAME, "ip", "-o", "link")

    failed = driver.apply(Delta(creates={**OWNERS, "hpb-three": "router:3"}))

    assert {name: str(err) for name, err in failed.items()} == {
        NAME: f"namespace {NAME} exists and was not made by hostplane",
        OTHER: f"namespace {OTHER}: {FOLDER / OTHER} exists, is no namespace, and was not made by hostplane",
    }
    assert {type(err) for err in failed.values()} == {ForeignError}
    assert ForeignError.actor is Actor.OPERATOR
    assert driver.observe() == {"hpb-three": "router:3"}
    assert driver.apply(Delta(deletes=OWNERS)) == {}
    assert within(NAME, "ip", "-o", "link") == before
    assert (FOLDER / OTHER).exists()


def test_deleting_leaves_nothing_and_what_is_gone_is_no_error(driver):
    driver.apply(Delta(creates=OWNERS))
    run("mount", "--bind", str(FOLDER / NAME), str(FOLDER / NAME))  # as a second ip-netns(8) attach would

    assert driver.apply(Delta(deletes=OWNERS)) == {}
    assert driver.observe() == {}
    assert list(FOLDER.iterdir()) == []
    assert "/hpb-" not in Path("/proc/thread-self/mountinfo").read_text()
    assert driver.apply(Delta(deletes=OWNERS)) == {}


def test_a_namespace_that_somebody_deletes_is_made_anew(driver):
    driver.apply(Delta(creates=OWNERS))
    run("ip", "netns", "delete", NAME)

    assert driver.observe() == {OTHER: "router:1"}
    assert driver.apply(Delta(creates={NAME: "responder"})) == {}
    assert driver.observe() == OWNERS


def test_files_that_a_dead_process_left_are_ours_and_are_finished_or_removed(driver):
    driver.apply(Delta(creates={OTHER: "router:1"}))
    run("umount", str(FOLDER / OTHER))  # as if it had died before it removed the file
    (FOLDER / NAME).write_text("hostplane:netns:responder")  # or before it mounted

    assert driver.observe() == {NAME: "unfinished responder", OTHER: "unfinished router:1"}
    assert driver.apply(Delta(updates={NAME: ("unfinished responder", "responder")})) == {}
    assert driver.apply(Delta(deletes={OTHER: "unfinished router:1"})) == {}
    assert driver.observe() == {NAME: "responder"}
    assert not (FOLDER / OTHER).exists()


CHILD = """
from agent.core.plan import Delta
from agent.drivers.netns import NetnsDriver
NetnsDriver().apply(Delta(creates={f"hpb-{n:03}": f"router:{n}" for n in range(200)}))
"""


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_process_that_is_killed_leaves_nothing_that_is_not_ours(driver, share):
    child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 30
    while len(names(FOLDER)) < 200 * share:
        assert child.poll() is None
        assert time.monotonic() < deadline
    child.send_signal(signal.SIGKILL)
    child.wait()

    assert set(driver.observe()) == set(names(FOLDER))
    wanted = {f"hpb-{n:03}": f"router:{n}" for n in range(0, 200, 10)}
    seen = driver.observe()
    assert driver.apply(Delta(deletes={name: value for name, value in seen.items() if name not in wanted})) == {}
    creates = {name: owner for name, owner in wanted.items() if name not in seen}
    updates = {name: (seen[name], wanted[name]) for name in wanted.keys() & seen if seen[name] != wanted[name]}
    assert driver.apply(Delta(creates=creates, updates=updates)) == {}
    assert driver.observe() == wanted


@pytest.mark.alone
def test_hundreds_of_namespaces(driver):
    wanted = {f"hpb-{n:03}": f"router:{n}" for n in range(200)}
    started = time.perf_counter()
    assert driver.apply(Delta(creates=wanted)) == {}
    made = time.perf_counter()
    assert driver.observe() == wanted
    read = time.perf_counter()
    assert driver.apply(Delta(deletes=wanted)) == {}
    print(
        f"200 namespaces: made in {made - started:.3f} s, read in {read - made:.4f} s, "
        f"deleted in {time.perf_counter() - read:.3f} s"
    )
    assert read - made < 0.5
