# SPDX-License-Identifier: Apache-2.0
"""The oracle of routers says what the Neutron API says, in cases that can be checked by hand."""

from __future__ import annotations

import pytest

from tests.functional.router_document import BEHIND_INSTANCES, DOCUMENT, UPSTREAM_ADDRESSES
from tests.functional.router_oracle import read_world

WORLD = read_world(DOCUMENT, BEHIND_INSTANCES, UPSTREAM_ADDRESSES)
NOWHERE = ""


@pytest.mark.parametrize(
    ("source", "target", "arrives_at", "seen_from"),
    [
        # On one network, between two of a router, and to another tenant's equal addresses never.
        ("cb2", "10.0.0.11", "cb1", "10.0.0.12"),
        ("tb2", "10.0.0.11", "tb1", "10.0.0.12"),
        ("dr3", "10.0.0.12", "db2", "10.1.0.13"),
        ("dr3", "2001:db8:d0::12", "db2", "2001:db8:d1::13"),
        ("er1", "10.0.0.13", "eb3", "10.1.0.11"),
        # Outside: under the router's address, or one's own; IPv6 is not translated.
        ("cb2", "198.51.100.1", "upstream", "203.0.113.2"),
        ("cb1", "198.51.100.1", "upstream", "203.0.113.11"),
        ("cb2", "2001:db8:100::1", "upstream", "2001:db8:c0::12"),
        ("er1", "198.51.100.1", NOWHERE, ""),
        ("tb1", "2001:db8:100::1", NOWHERE, ""),  # its router has no IPv6 outside
        # To floating IPs: from outside, by the same router (back under an external address), by another.
        ("upstream", "203.0.113.12", "cr2", "203.0.113.1"),
        ("cb2", "203.0.113.12", "cr2", "203.0.113.2"),
        ("cb1", "203.0.113.12", "cr2", "203.0.113.11"),
        ("cb1", "203.0.113.11", "cb1", "203.0.113.11"),
        ("tb1", "203.0.113.12", "cr2", "203.0.113.3"),
        # Address scopes: no translation within one, no way between two but by floating IP.
        ("sk1", "198.51.100.1", "upstream", "192.0.2.3"),
        ("upstream", "192.0.2.4", "sk2", "203.0.113.1"),
        ("sl1", "198.51.100.1", "upstream", "203.0.113.6"),
        ("sk1", "10.20.1.4", NOWHERE, ""),
        ("sk1", "203.0.113.52", "sl2", "203.0.113.6"),
        ("upstream", "10.20.1.4", NOWHERE, ""),
        # Extra routes, and security groups, which see addresses as they arrive.
        ("cr2", "10.9.0.1", "cb1", "10.1.0.12"),
        ("cb2", "10.1.0.11", "cr1", "10.0.0.12"),
        ("cr2", "10.1.0.11", NOWHERE, ""),
        ("upstream", "203.0.113.13", "cb3", "203.0.113.1"),
        ("cb2", "203.0.113.13", NOWHERE, ""),
        ("dr1", "10.0.0.11", "db1", "10.1.0.11"),
        ("dr1", "203.0.113.31", NOWHERE, ""),  # under an external address it is no member
    ],
)
def test_where_a_request_arrives(source: str, target: str, arrives_at: str, seen_from: str) -> None:
    outcome = WORLD.expect(source, target)
    assert outcome.arrives_at == (frozenset((arrives_at,)) if arrives_at else frozenset())
    assert outcome.seen_from == seen_from
    assert outcome.answered is bool(arrives_at)


def test_of_equally_good_ways_either_is_right() -> None:
    assert WORLD.expect("cr2", "10.8.0.1").arrives_at == {"cb1", "cb2"}


@pytest.mark.parametrize("target", ["10.0.0.1", "10.1.0.1", "203.0.113.2", "203.0.113.4", "2001:db8:c1::1"])
def test_routers_answer_for_themselves(target: str) -> None:
    outcome = WORLD.expect("cb2", target)
    assert (outcome.answered, outcome.arrives_at) == (True, frozenset())
