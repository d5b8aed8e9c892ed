# SPDX-License-Identifier: Apache-2.0
"""Which instances the demo lets ask, and when what they are told is their own."""

from __future__ import annotations

import pytest

from agent.sandbox.asking import Told, namesakes
from agent.store.records import FixedIpRecord, PortRecord


def port(name: str, *addresses: str, host: str = "host1") -> PortRecord:
    fixed = tuple(FixedIpRecord(address, "s") for address in addresses)
    return PortRecord(name, name, "n", "blue", host, "02:00:00:00:00:01", fixed, True, True, (), "", "")


WEB = port("web", "2001:db8::1", "10.0.0.11")


def test_two_with_the_same_address_on_one_host_ask() -> None:
    others = (port("db", "10.0.0.12"), port("far", "10.0.0.11", host="host2"), port("six", "2001:db8::1"))
    assert namesakes((WEB, *others)) == ()
    red = port("red", "10.0.0.11")
    assert namesakes((WEB, *others, red)) == (WEB, red)


@pytest.mark.parametrize(
    ("told", "is_right"),
    [
        (Told(WEB, {"address": "10.0.0.11/24"}, {"uuid": "web"}), True),
        (Told(WEB, {"address": "10.0.0.11/24"}), True),  # its groups may forbid to ask
        (Told(WEB, {"address": "10.0.0.12/24"}, {"uuid": "web"}), False),
        (Told(WEB, {"address": "10.0.0.11/24"}, {"uuid": "db"}), False),
        (Told(WEB), False),
    ],
)
def test_what_another_port_is_told_is_wrong(told: Told, is_right: bool) -> None:
    assert told.is_right is is_right
