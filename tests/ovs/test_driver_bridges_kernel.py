# SPDX-License-Identifier: Apache-2.0
"""Driver ``bridges`` on the real kernel, in a network namespace of the test's own.  Needs root."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from agent.core.items import HybridBridge
from agent.core.plan import Delta, ObjectId
from agent.drivers.bridges import BridgesDriver
from tests.ovs.zone_bridges import make_bridges, namespace, shell

MANY = 100  # a quarter of a large host: the kernel takes seconds to take down more


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with namespace():
        yield


@pytest.fixture
def driver() -> BridgesDriver:
    return BridgesDriver()


def bridge(letter: str) -> HybridBridge:
    return HybridBridge(f"qbr{letter}", f"tap{letter}", f"qvb{letter}")


def wanted(*letters: str) -> dict[str, HybridBridge]:
    return {f"qbr{x}": bridge(x) for x in letters}


def asked(*letters: str) -> dict[str, ObjectId]:
    return {f"qbr{x}": ObjectId(f"port:{x}") for x in letters}


def links() -> str:
    """Return all that ip prints, but for the bridges' timers."""
    return re.sub(r"_timer +[0-9.]+", "", shell("ip -d link"))


def flags(name: str) -> str:
    shown = shell(f"ip -d link show {name}").split()
    return "".join(shown[shown.index(f"nf_call_{family}") + 1] for family in ("iptables", "ip6tables"))


def test_flags_are_set_and_read_back_and_nothing_else_is_touched(driver):
    make_bridges("a", "b", flags=False)
    assert driver.observe() == driver.observe(asked("a", "zz")) == {}, "nobody has asked for them yet"

    assert driver.apply(Delta(creates=wanted("a"))) == {}

    assert driver.observe() == driver.observe(asked("a")) == wanted("a")
    assert (flags("qbra"), flags("qbrb")) == ("11", "00")
    before = links()
    assert driver.apply(Delta(creates=wanted("a"))) == {}
    assert driver.apply(Delta(deletes=wanted("a"))) == {}
    assert links() == before


@pytest.mark.parametrize("change", ["nf_call_iptables 0", "nf_call_ip6tables 0"])
def test_a_flag_that_somebody_switches_off_is_seen_and_set_again(driver, change):
    make_bridges("a", flags=False)
    driver.apply(Delta(creates=wanted("a")))
    shell(f"ip link set qbra type bridge {change}")

    seen = driver.observe()
    assert seen == {"qbra": HybridBridge("qbra", "tapa", "qvba", filtered=False)}
    assert driver.apply(Delta(updates={"qbra": (seen["qbra"], bridge("a"))})) == {}
    assert driver.observe() == wanted("a")


def test_what_is_missing_is_named_and_the_rest_is_filtered(driver):
    make_bridges("a", "b", "c", "d", flags=False)
    shell(
        "ip link del tapa; ip link set tapb nomaster; ip link set qvbc master qbrd;"
        " ip link del qbrd; ip link add qbrd type veth"
    )

    failed = driver.apply(Delta(creates=wanted("a", "b", "c", "d", "e")))

    assert {key: str(error).partition(";")[0] for key, error in failed.items()} == {
        "qbra": "bridge qbra: device tapa does not exist",
        "qbrb": "bridge qbrb: device tapb is not in bridge qbrb",
        "qbrc": "bridge qbrc: device qvbc is not in bridge qbrc",
        "qbrd": "bridge qbrd is not a Linux bridge",
        "qbre": "bridge qbre does not exist",
    }
    assert all("plug the port again" in str(error) for error in failed.values())
    assert [flags(f"qbr{x}") for x in "abc"] == ["11"] * 3
    assert driver.observe()["qbra"] == HybridBridge("qbra", "", "qvba")

    make_bridges("e", flags=False)
    shell("ip link set tapb master qbrb")
    assert driver.apply(Delta(creates=wanted("b", "e"))) == {}
    assert driver.observe(asked("b", "e")) == wanted("b", "e")


def test_a_fresh_process_knows_what_the_last_one_served_and_forgets_it_for_good(driver):
    make_bridges("a", "b", "c", flags=False)
    driver.apply(Delta(creates=wanted("a", "b")))
    fresh = BridgesDriver()

    assert fresh.observe() == wanted("a", "b")
    assert fresh.apply(Delta(deletes=wanted("b"))) == {}
    assert fresh.observe() == wanted("a")
    assert fresh.observe(asked("b")) == {}, "or to forget it would never be done"
    assert fresh.apply(Delta(creates=wanted("b"))) == {}
    assert fresh.observe() == wanted("a", "b")
    shell("ip link del qbrb")
    assert fresh.observe() == wanted("a")


def test_without_the_module_a_bridge_is_not_filtered_and_the_error_says_what_to_load(tmp_path):
    make_bridges("a")
    driver = BridgesDriver(tmp_path / "bridge")

    failed = driver.apply(Delta(creates=wanted("a")))

    assert "modprobe br_netfilter" in str(failed["qbra"])
    assert driver.observe() == {"qbra": HybridBridge("qbra", "tapa", "qvba", filtered=False)}


@pytest.mark.alone
def test_many_bridges_are_read_in_little_time(driver):
    lines = []
    for number in range(MANY):
        lines += [
            f"link add qbr{number} type bridge",
            *(
                f"link add {port}{number} master qbr{number} type veth peer name {port}x{number}"
                for port in ("tap", "qvb")
            ),
        ]
    subprocess.run(("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True)
    everything = wanted(*map(str, range(MANY)))
    assert driver.apply(Delta(creates=everything)) == {}

    def seconds(keys: dict[str, ObjectId] | None) -> float:
        begun = time.perf_counter()
        found = driver.observe(keys)
        taken = time.perf_counter() - begun
        assert found == {key: everything[key] for key in (everything if keys is None else keys)}
        return taken

    whole, one = (min(seconds(keys) for _ in range(5)) for keys in (None, asked("7")))
    # Measured: 5 ms (400: 20 ms) and 0.2 ms; the limits allow for a busy machine.
    assert whole < 0.1
    assert one < 0.01
