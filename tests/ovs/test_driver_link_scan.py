# SPDX-License-Identifier: Apache-2.0
"""Looking for devices of ours without a library, on the real kernel.  Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.core import naming
from agent.core.items import Link
from agent.core.plan import Delta
from agent.drivers.link_scan import any_marked
from agent.drivers.links import PLUGGED_BY_COMMAND, LinksDriver

CLONE_NEWNET = 0x40000000
MANY = 300  # devices: more than the kernel tells in one answer

OBSERVE = """
import sys
from agent.drivers.links import LinksDriver
print(sorted(LinksDriver().observe()), "pyroute2" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _namespace():
    """Run the test in a network namespace that lives as long as this thread stays in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    yield
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


def ip_batch(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def foreign_devices() -> None:
    ip_batch(*(f"link add foreign{n} type bridge" for n in range(MANY)))
    ip_batch(*(f"link set foreign{n} alias 'of somebody else'" for n in range(MANY)))


def is_any_ours() -> bool:
    return any_marked(naming.ALIAS_PREFIX, PLUGGED_BY_COMMAND)


def observe_afresh() -> str:
    """Return what a new process reads, and whether it loaded the library for that."""
    argv = [sys.executable, "-c", OBSERVE]
    return subprocess.run(
        argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout.strip()


def test_devices_of_others_are_not_ours():
    foreign_devices()

    assert not is_any_ours()


def test_a_device_of_ours_is_found_among_many():
    foreign_devices()
    LinksDriver().apply(Delta(creates={"qbr1": Link("qbr1", "bridge", "port:1", 1450)}))

    assert is_any_ours()


def test_what_the_command_plugged_is_the_commands():
    ip_batch("link add tap1 type veth peer name peer1", f"link set tap1 alias {PLUGGED_BY_COMMAND}1")

    assert not is_any_ours()


def test_a_host_without_devices_of_ours_is_read_without_the_library():
    foreign_devices()

    assert observe_afresh() == "[] False"


def test_devices_of_ours_are_read_with_it():
    LinksDriver().apply(Delta(creates={"qbr1": Link("qbr1", "bridge", "port:1", 1450)}))

    assert observe_afresh() == "['qbr1'] True"


def test_a_driver_that_found_nothing_finds_what_it_makes_later():
    driver, bridge = LinksDriver(), Link("qbr1", "bridge", "port:1", 1450)
    assert driver.observe() == {}

    assert driver.apply(Delta(creates={"qbr1": bridge})) == {}
    assert driver.observe() == {"qbr1": bridge}
