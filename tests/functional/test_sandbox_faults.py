# SPDX-License-Identifier: Apache-2.0
"""What the sandbox can break and mend: links, hosts, pairs of hosts; and the router beyond the external network."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Callable
from itertools import permutations

import pytest

from agent.cli.main import main
from agent.core.errors import InputError
from agent.sandbox.layout import UNDERLAY
from agent.sandbox.sandbox import Sandbox
from tests.functional.lab import Lab, eventually, hostplane, unique_name

HOSTS = {"host1": "198.18.0.1", "host2": "198.18.0.2", "host3": "198.18.0.3"}
ALL = set(permutations(HOSTS, 2))


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    return new_lab(3, agents=False, external=True)


def command(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, as starting another costs more than what it does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["sandbox", "--name", lab.sandbox.name, *words])
        except SystemExit as end:  # argparse
            status = int(str(end.code))
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def who_hears_whom(lab: Lab) -> set[tuple[str, str]]:
    """Return the pairs of hosts of which the first reaches the other on the underlay."""
    wait = {pair: lab.start(pair[0], "ping", "-q", "-c2", "-i0.1", "-W0.3", HOSTS[pair[1]]) for pair in ALL}
    return {pair for pair, process in wait.items() if process.communicate() and process.returncode == 0}


def assert_hear(lab: Lab, pairs: set[tuple[str, str]]) -> None:
    """Wait until exactly these pairs hear each other: who was not answered asks again only after a second."""
    eventually(lambda: who_hears_whom(lab) == pairs, f"{sorted(pairs)} hear each other")


def carrier(lab: Lab, host: str, device: str) -> bool:
    return lab.output(host, "cat", f"/sys/class/net/{device}/carrier").strip() == "1"


def test_the_router_beyond_is_on_the_external_network_with_something_behind_it(lab: Lab) -> None:
    lab.output("host2", "ip", "link", "set", "br-external", "up")
    for address in ("203.0.113.50/24", "2001:db8:ff::50/64"):
        lab.output("host2", "ip", "address", "add", address, "dev", "br-external", "nodad")
    lab.output("host2", "ip", "route", "add", "198.51.100.0/24", "via", "203.0.113.1")
    lab.output("host2", "ip", "route", "add", "2001:db8:100::/64", "via", "2001:db8:ff::1")
    for address in ("203.0.113.1", "198.51.100.1", "2001:db8:ff::1", "2001:db8:100::1"):
        lab.assert_connection("host2", address)
    words = ("exec", "upstream", "--", "ip", "address", "show", "eth0")
    assert "203.0.113.1/24" in hostplane("sandbox", "--name", lab.sandbox.name, *words).stdout
    assert lab.ping("upstream", "203.0.113.50")


def test_without_external_there_is_no_router_beyond(new_lab: Callable[..., Lab]) -> None:
    with pytest.raises(InputError, match="no host or instance is called upstream"):
        new_lab(1, agents=False).sandbox.resolve("upstream")


def test_a_link_loses_its_carrier_or_only_what_is_sent(lab: Lab) -> None:
    cut = ALL - {pair for pair in ALL if "host1" in pair}
    for options, has_carrier in (((), False), (("--silent",), True)):
        assert command(lab, "link-down", "host1", "underlay", *options).returncode == 0
        assert carrier(lab, "host1", "uplink") is has_carrier
        assert carrier(lab, "host1", "external")
        assert_hear(lab, cut)
        assert command(lab, "link-up", "host1", "underlay").returncode == 0
        assert carrier(lab, "host1", "uplink")
        assert_hear(lab, ALL)


def test_hosts_that_are_parted_hear_all_others(lab: Lab) -> None:
    assert command(lab, "partition", "host1", "host2").returncode == 0
    assert_hear(lab, ALL - {("host1", "host2"), ("host2", "host1")})
    lab.sandbox.partition("host2", "host3")
    assert command(lab, "heal", "host2", "host1").returncode == 0
    assert_hear(lab, ALL - {("host2", "host3"), ("host3", "host2")})
    for _ in range(2):
        lab.sandbox.heal("host2", "host3")
    assert_hear(lab, ALL)


def test_a_dead_host_says_nothing_and_lives_again(lab: Lab) -> None:
    lab.output("host3", "ip", "netns", "add", "vm")
    inside = lab.start("vm", "sleep", "600")
    refused = command(lab, "host-up", "host3")
    assert refused.returncode == 1
    assert "host host3 is not dead" in refused.stderr
    assert command(lab, "host-down", "host3").returncode == 0
    assert inside.wait(5) != 0
    assert lab.sandbox.host("host3").processes() == {}
    assert not carrier(lab, "host3", "external")
    assert_hear(lab, {("host1", "host2"), ("host2", "host1")})
    assert command(lab, "host-down", "host3").returncode == 0
    assert command(lab, "host-up", "host3").returncode == 0
    assert {"agent", "ovs-vswitchd", "ovsdb-server"} <= set(lab.sandbox.host("host3").processes())
    assert_hear(lab, ALL)


def test_the_agents_namespaces_are_no_instances(lab: Lab) -> None:
    for name in ("vm7", "qrouter-0b8e7c3a-6c0e-4cb0-8a5e-3c1c0c6f7a55"):
        lab.output("host2", "ip", "netns", "add", name)
    assert lab.sandbox.host("host2").instances() == ["vm7"]


def test_what_cannot_be_broken_is_refused(lab: Lab) -> None:
    assert "invalid choice" in command(lab, "link-down", "host1", "physnet9").stderr
    with pytest.raises(InputError, match="no host is called host9"):
        lab.sandbox.cut("host9", (UNDERLAY,))
    with pytest.raises(InputError, match="cannot be parted from itself"):
        lab.sandbox.partition("host1", "host1")


def test_a_sandbox_that_is_found_again_still_has_its_router_beyond(lab: Lab) -> None:
    assert Sandbox.find(lab.sandbox.name).upstream is not None
    name = unique_name()
    done = hostplane("sandbox", "--name", name, "up", "--external", "-f", "-", stdin="ports: {upstream: {network: x}}")
    assert "the router beyond the external network is called so" in done.stderr
