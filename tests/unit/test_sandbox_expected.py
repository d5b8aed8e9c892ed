# SPDX-License-Identifier: Apache-2.0
"""Which pings the demo demands: by the rules of both ends, in both families, with answers and without state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.sandbox.expected import Expected, Filters
from agent.store.records import (
    AddressGroupRecord,
    FixedIpRecord,
    PortRecord,
    SecurityGroupRecord,
    SecurityGroupRuleRecord,
)

PASSES = Expected(arrives=True, answered=True)
STOPS = Expected(arrives=False, answered=False)


def port(name: str, number: int, *groups: str, network: str = "blue", pairs: tuple[str, ...] = ()) -> PortRecord:
    addresses = (FixedIpRecord(f"10.0.0.{number}", "s4"), FixedIpRecord(f"2001:db8::{number}", "s6"))
    return PortRecord(
        id=name,
        name=name,
        network=network,
        network_name=network,
        host="host1",
        mac_address="",
        fixed_ips=addresses,
        admin_state_up=True,
        port_security=True,
        allowed_address_pairs=pairs,
        device_owner="",
        device_id="",
        security_groups=groups,
        security_group_ids=groups,
    )


def rule(direction: str, ethertype: str = "IPv4", **fields) -> SecurityGroupRuleRecord:
    return SecurityGroupRuleRecord(
        id="r", group="g", group_name="g", direction=direction, ethertype=ethertype, **fields
    )


def group(name: str, *rules: SecurityGroupRuleRecord, stateful: bool = True) -> SecurityGroupRecord:
    return SecurityGroupRecord(
        id=name,
        name=name,
        project="",
        description="",
        stateful=stateful,
        default=False,
        log=(),
        log_rate=100,
        log_burst=25,
        rules=rules,
    )


OFFICE = AddressGroupRecord(
    id="office", name="office", project="", description="", addresses=("10.0.0.2", "2001:db8::/64")
)
OUT = group("out", rule("egress"), rule("egress", "IPv6"))


def outcome(
    *rules: SecurityGroupRuleRecord, sender: PortRecord | None = None, version: int = 4, stateful: bool = True
) -> Expected:
    """Return what becomes of a ping of a port that may send all to one with *rules*."""
    source, target = sender or port("a", 2, "out"), port("b", 3, "web")
    groups = [OUT, group("web", *rules, stateful=stateful)]
    address = "10.0.0.3" if version == 4 else "2001:db8::3"
    return Filters.of(groups, [OFFICE], [source, target]).expect(source, target, address)


@pytest.mark.parametrize(
    ("allowing", "expected"),
    [
        (rule("ingress"), PASSES),
        (rule("egress"), STOPS),
        (rule("ingress", "IPv6"), STOPS),
        (rule("ingress", protocol="icmp"), PASSES),
        (rule("ingress", protocol="icmp", port_range_min=8), PASSES),
        (rule("ingress", protocol="icmp", port_range_min=8, port_range_max=0), PASSES),
        (rule("ingress", protocol="icmp", port_range_min=8, port_range_max=1), STOPS),
        (rule("ingress", protocol="icmp", port_range_min=0), STOPS),
        (rule("ingress", protocol="tcp"), STOPS),
        (rule("ingress", remote_ip_prefix="10.0.0.2/32"), PASSES),
        (rule("ingress", remote_ip_prefix="10.0.0.4/30"), STOPS),
        (rule("ingress", remote_group="out"), PASSES),
        (rule("ingress", remote_group="web"), STOPS),
        (rule("ingress", remote_address_group="office"), PASSES),
    ],
)
def test_a_rule_of_the_receiver_lets_pings_in_or_not(allowing: SecurityGroupRuleRecord, expected: Expected) -> None:
    assert outcome(allowing) == expected


def test_both_ends_decide() -> None:
    assert outcome(rule("ingress"), sender=port("a", 2)) == STOPS
    assert outcome(rule("ingress"), sender=port("a", 2, "out", network="red")) == STOPS
    open_port = replace(port("a", 2), security_groups=None)
    assert outcome(rule("ingress"), sender=open_port) == PASSES
    assert outcome(sender=open_port) == STOPS


@pytest.mark.parametrize("protocol", ["icmp", "icmpv6", "ipv6-icmp"])
def test_icmp_of_ipv6_has_types_of_its_own(protocol: str) -> None:
    assert outcome(rule("ingress", "IPv6", protocol=protocol, port_range_min=128), version=6) == PASSES
    assert outcome(rule("ingress", "IPv6", protocol=protocol, port_range_min=8), version=6) == STOPS


def test_allowed_address_pairs_are_members() -> None:
    source, target = port("a", 2, "out"), port("b", 3, "web")
    groups = [OUT, group("far"), group("web", rule("ingress", remote_group="far"))]
    for pairs, expected in (((), STOPS), (("10.0.0.0/30 52:54:00:00:00:01",), PASSES)):
        far = port("c", 4, "far", pairs=pairs)
        assert Filters.of(groups, [], [source, target, far]).expect(source, target, "10.0.0.3") == expected


def test_without_state_the_answer_needs_a_rule_of_its_own() -> None:
    assert outcome(rule("ingress"), stateful=False) == Expected(arrives=True, answered=False)
    answer = rule("egress", protocol="icmp", port_range_min=0)
    assert outcome(rule("ingress"), answer, stateful=False) == PASSES
