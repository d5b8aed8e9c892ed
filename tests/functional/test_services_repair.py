# SPDX-License-Identifier: Apache-2.0
"""Devices and namespace of the responder that somebody has taken away are there again at once, and so are answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.service_identity import DHCP_DEVICE, DHCP_INNER, METADATA_DEVICE, METADATA_INNER, NAMESPACE
from tests.functional.dhcp_probe import DISCOVER, DhcpProbe
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import Http
from tests.functional.lab import Lab, eventually
from tests.functional.service_places import route_to_metadata

pytestmark = pytest.mark.alone

DOCUMENT = """
networks:
  a: {type: vxlan}
subnets:
  a4: {network: a, cidr: 10.0.0.0/24}
ports:
  a1: {network: a, host: host1, fixed_ips: [10.0.0.11], metadata: {instance_id: i-a1}}
"""
AT_MOST = 15.0  # seconds for a machine that is busy; the usual figure is printed
TRY = 0.1  # seconds that one answer may take

ACCIDENTS = {
    "hp-dhcp": ("ip", "link", "delete", DHCP_DEVICE),
    "hp-dhcp's other end": ("ip", "-n", NAMESPACE, "link", "delete", DHCP_INNER),
    "hp-meta": ("ip", "link", "delete", METADATA_DEVICE),
    "hp-meta's other end": ("ip", "-n", NAMESPACE, "link", "delete", METADATA_INNER),
    "the namespace": ("ip", "netns", "delete", NAMESPACE),
}


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    route_to_metadata(lab, "a1")
    return lab


def everything(lab: Lab) -> str:
    """Return which devices and which namespace there are, "" while one is missing."""
    words = f"ip -o link show {DHCP_DEVICE}; ip -o link show {METADATA_DEVICE}; stat -L /run/netns/{NAMESPACE}"
    done = lab.run("host1", "sh", "-ec", words)
    return done.stdout if done.returncode == 0 else ""


def is_told_who_it_is(namespace: Path) -> bool:
    try:
        with Http(namespace, timeout=TRY) as connection:
            return connection.ask("/latest/meta-data/instance-id").text == "i-a1"
    except OSError:
        return False


def answers_again(lab: Lab, timeout: float) -> float:
    """Return after how many seconds an instance gets both an address and its metadata."""
    namespace = namespace_of(lab, "a1")
    begun = time.monotonic()
    with DhcpProbe(namespace, lab.mac("a1")) as probe:
        while probe.ask(DISCOVER, timeout=TRY) is None or not is_told_who_it_is(namespace):
            assert time.monotonic() - begun < timeout, f"no answers within {timeout:g} s"
    return time.monotonic() - begun


@pytest.mark.parametrize("what", list(ACCIDENTS))
def test_what_somebody_deletes_is_made_anew_and_answers(lab: Lab, what: str) -> None:
    answers_again(lab, AT_MOST)
    before = everything(lab)
    lab.output("host1", *ACCIDENTS[what])
    begun = time.monotonic()
    eventually(lambda: everything(lab) not in ("", before), f"{what} is there again", AT_MOST)
    print(f"{what} deleted: there again after {(time.monotonic() - begun) * 1000:.0f} ms; ", end="")
    print(f"{what} deleted: answers again after {answers_again(lab, AT_MOST) * 1000:.0f} ms")
