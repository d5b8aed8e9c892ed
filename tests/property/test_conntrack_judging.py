# SPDX-License-Identifier: Apache-2.0
"""Judging connections against a slow and obvious reading of the rules, and the driver through random histories."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.items import GroupRules, ZoneFilter
from agent.core.model import AddressChunk, Direction, OwnerId, SecurityGroupRule
from agent.core.plan import Delta, Group, ObjectId, Plan, Value, WriteOrder
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.drivers.conntrack import ConntrackDriver
from agent.drivers.conntrack_table import Connection
from tests.fakes.conntrack import FakeTable, connection
from tests.golden.host_states import Clock

EGRESS, INGRESS = 1, 2  # marks
TCP, UDP, GRE = 6, 17, 47


# What is drawn here is large: fewer examples than usual, of the profile's number.
FEWER = settings(max_examples=settings().max_examples // 3)


# The oracle.


def rule_allows(rule: SecurityGroupRule, one: Connection, egress: bool, members: dict[str, set[str]]) -> bool:
    if (rule.direction == "egress") != egress or rule.ip_version != one.family:
        return False
    icmp = 1 if one.family == 4 else 58
    protocol = icmp if rule.protocol == 1 else rule.protocol
    if protocol is not None and protocol != one.protocol:
        return False
    if rule.port_min is not None:
        if one.service is None:
            return False
        if protocol == icmp:
            kind, code = divmod(one.service, 256)
            if kind != rule.port_min or rule.port_max not in (None, code):
                return False
        elif not rule.port_min <= one.service <= (rule.port_max or 0):
            return False
    remote = ipaddress.ip_address(one.destination if egress else one.source)
    if rule.remote_prefix is not None:
        return remote in ipaddress.ip_network(rule.remote_prefix)
    if rule.remote_owner is not None:
        return any(remote in ipaddress.ip_network(each) for each in members.get(rule.remote_owner, ()))
    return True


def allows_one_way(items: dict[str, Value], zone: ZoneFilter, one: Connection, egress: bool) -> bool:
    if one.protocol == UDP:
        client, server = (68, 67) if one.family == 4 else (546, 547)
        if (one.source_port, one.service) == (client, server) and egress:
            return True
        if (one.source_port, one.service) == (server, client):
            return not egress
    members: dict[str, set[str]] = {}
    for value in items.values():
        if isinstance(value, AddressChunk):
            members.setdefault(value.owner, set()).update(value.addresses)
    groups = [items.get(f"group {group}") for group in zone.groups]
    rules = [rule for group in groups if isinstance(group, GroupRules) for rule in group.rules]
    return any(rule_allows(rule, one, egress, members) for rule in rules)


def allows(items: dict[str, Value], one: Connection) -> bool:
    zone = items[f"zone {one.zone}"]
    assert isinstance(zone, ZoneFilter)
    if zone.open:
        return True
    if one.mark & 3 == EGRESS:
        return allows_one_way(items, zone, one, True)
    if one.mark & 3 == INGRESS:
        return allows_one_way(items, zone, one, False)
    own = [ipaddress.ip_network(each) for each in zone.addresses]
    sent = any(ipaddress.ip_address(one.source) in net for net in own)
    received = any(ipaddress.ip_address(one.destination) in net for net in own)
    ways = [True, False] if sent == received else [sent]
    return all(allows_one_way(items, zone, one, egress) for egress in ways)


# What there is to judge and to judge by.

HOSTS = {4: ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1"], 6: ["fd00::1", "fd00::2", "fd01::1", "2001:db8::1"]}
PREFIXES = {4: ["10.0.0.0/24", "10.0.0.2/32", "0.0.0.0/0", "10.0.0.0/23"], 6: ["fd00::/64", "fd00::2/128", "::/0"]}
PORTS = st.sampled_from([22, 67, 68, 80, 81, 546, 547])
OWNERS = ["A", "B"]
GROUPS = ["g1", "g2", "g3"]


@st.composite
def rules(draw, number: int) -> SecurityGroupRule:
    family = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([None, 1, 58 if family == 6 else 1, TCP, UDP, GRE]))
    low = high = None
    if protocol in (TCP, UDP) and draw(st.booleans()):
        low, high = sorted((draw(PORTS), draw(PORTS)))
    elif protocol in (1, 58) and draw(st.booleans()):
        low, high = draw(st.sampled_from([8, 13, 128])), draw(st.sampled_from([None, 0, 1]))
    prefix, owner = draw(
        st.sampled_from([(None, None), *((p, None) for p in PREFIXES[family]), *((None, o) for o in OWNERS)])
    )
    direction = draw(st.sampled_from(list(Direction)))
    return SecurityGroupRule(
        str(number), direction, family, protocol, low, high, prefix, None if owner is None else OwnerId(owner)
    )


@st.composite
def connections(draw) -> Connection:
    family = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([TCP, UDP, UDP, GRE, 1 if family == 4 else 58]))
    source_port = service = None
    if protocol in (TCP, UDP):
        source_port, service = draw(PORTS), draw(PORTS)
    elif protocol != GRE:
        service = draw(st.sampled_from([8, 13, 128])) << 8 | draw(st.sampled_from([0, 1]))
    source, destination = draw(st.sampled_from(HOSTS[family])), draw(st.sampled_from(HOSTS[family]))
    mark = draw(st.sampled_from([EGRESS, INGRESS, EGRESS | 0x10, 0, 3]))
    return connection(draw(st.sampled_from([1, 2])), protocol, source, destination, service, source_port, mark)


@st.composite
def item_sets(draw) -> dict[str, Value]:
    items: dict[str, Value] = {}
    for group in GROUPS:
        found = tuple(draw(rules(number)) for number in range(draw(st.integers(0, 2))))
        if found or draw(st.booleans()):  # else a group whose row is missing
            items[f"group {group}"] = GroupRules(found)
    for owner in OWNERS:
        for chunk in "01":
            pool = [*HOSTS[4], *HOSTS[6], *PREFIXES[4], *PREFIXES[6]]
            addresses = draw(st.frozensets(st.sampled_from(pool), max_size=3))
            if addresses:
                items[f"members {owner}/{chunk}"] = AddressChunk(OwnerId(owner), chunk, addresses)
    for zone in (1, 2):
        groups = tuple(sorted(draw(st.sets(st.sampled_from(GROUPS), max_size=2))))
        addresses = tuple(draw(st.sets(st.sampled_from(["10.0.0.1", "fd00::1", "10.0.0.0/24"]))))
        is_open = draw(st.integers(0, 9)) == 0
        items[f"zone {zone}"] = ZoneFilter(zone, f"port{zone}", addresses, groups, is_open)
    return items


@FEWER
@given(item_sets(), st.sets(connections(), max_size=15))
def test_what_the_rules_do_not_allow_is_ended_and_nothing_else(items, found):
    others = {one._replace(zone=zone) for one in found for zone in (0, 7)}
    table = FakeTable(found | others)
    driver = ConntrackDriver(table)
    assert driver.apply(Delta(creates=items)) == {}
    assert table.connections == others | {one for one in found if allows(items, one)}
    assert driver.observe() == items
    assert driver.ended == len(found) + len(others) - len(table.connections)


@FEWER
@given(
    st.lists(st.tuples(item_sets(), st.sets(connections(), max_size=6), st.integers(0, 2)), min_size=1, max_size=4),
    st.data(),
)
def test_through_changes_and_failures_no_connection_outlives_its_permission(history, data):
    """Connections come only as the rules of the moment allow them, as they do through the chains."""
    table = FakeTable()
    clock = Clock()
    driver = ConntrackDriver(table)

    def start() -> Reconciler:
        return Reconciler(
            (driver,), clock, clock, Backoff(lambda a, b: (a + b) / 2), orders={"conntrack": WriteOrder.LAST}
        )

    reconciler = start()
    for items, found, failures in history:
        if data.draw(st.sampled_from([True, True, False])):
            # Some keys only, so that most of what is there stays as it was.
            before = dict(driver.observe())
            keep = data.draw(st.sets(st.sampled_from(sorted(before) or [""])))
            items = {**items, **{key: value for key, value in before.items() if key in keep}}
        elif data.draw(st.booleans()):
            driver = ConntrackDriver(table)  # the process is a new one and remembers nothing
            reconciler = start()
        plan = Plan({ObjectId(key): Group(ObjectId(key), {"conntrack": {key: items[key]}}) for key in items})
        survivors = {one for one in table.connections if allows(items, one)}
        table.failures = failures
        for _ in range(6):
            reconciler.run(plan, revision=1)
            due = reconciler.next_due()
            if due is None:
                break
            clock.time = max(clock.time, due)
        assert driver.observe() == items
        assert table.connections == survivors
        assert all(one.protocol == TCP and not allows(items, one) for one in table.dead)
        table.connections |= {one for one in found if allows(items, one)}
