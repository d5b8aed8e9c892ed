# SPDX-License-Identifier: Apache-2.0
"""Whatever a row of a filter holds, it becomes something that a planner can take at its word, or is refused."""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import SecurityGroupRule
from agent.store import filter_rows
from agent.store.rows import RowError

GROUP, OTHER = uuid.uuid4(), uuid.uuid4()


@dataclass
class Row:
    """As much of an IDL row as is read: columns with atoms."""

    _data: dict[str, Any]
    uuid: uuid.UUID = field(default_factory=uuid.uuid4)


def row(**columns: object) -> Row:
    """Return a row; None is an empty column."""

    def datum(value: object) -> Any:
        values = value if isinstance(value, list) else [] if value is None else [value]
        return SimpleNamespace(values=[SimpleNamespace(value=item) for item in values])

    return Row({name: datum(value) for name, value in columns.items()})


ADDRESSES = st.ip_addresses().map(str)
PREFIXES = st.builds(lambda address, length: f"{address}/{length}", ADDRESSES, st.integers(-1, 130))
TEXTS = ADDRESSES | PREFIXES | ADDRESSES.map(lambda text: f"{text}%eth0") | st.text(max_size=20)
PORTS = st.none() | st.none() | st.integers(-1, 65536) | st.sampled_from([0, 255, 256, 65535])
PROTOCOLS = st.none() | st.sampled_from([1, 6, 17, 58, 132]) | st.integers(-1, 256)
REMOTES = st.none() | st.none() | TEXTS

RULES = st.fixed_dictionaries(
    {
        "group": st.just(GROUP),
        "direction": st.sampled_from(["ingress", "egress", "ingress", "egress", "sideways"]),
        "ethertype": st.sampled_from(["IPv4", "IPv6", "IPv4", "IPv6", "IPX"]),
        "protocol": PROTOCOLS,
        "port_range_min": PORTS,
        "port_range_max": PORTS,
        "remote_ip_prefix": REMOTES,
        "remote_group": st.sampled_from([None, None, OTHER]),
        "remote_address_group": st.sampled_from([None, None, None, OTHER]),
    }
)


@given(RULES)
def test_a_rule_is_as_the_model_says_or_refused(columns):
    try:
        rule = filter_rows.rule(row(**columns)).rule
    except RowError as err:
        refused = err.column
    else:
        _check(rule, columns)
        return
    assert refused in columns


def _check(rule: SecurityGroupRule, columns: dict[str, Any]) -> None:
    assert rule.direction == columns["direction"]
    assert rule.ip_version == int(columns["ethertype"][-1])
    if rule.protocol != columns["protocol"]:
        assert (rule.ip_version, rule.protocol, columns["protocol"]) == (6, 58, 1)
    assert (rule.port_min, rule.port_max) == (columns["port_range_min"], columns["port_range_max"])
    if rule.port_max is not None and rule.protocol not in (1, 58):
        assert rule.protocol in filter_rows.PROTOCOLS_WITH_PORTS
        assert rule.port_min is not None
        assert 0 <= rule.port_min <= rule.port_max <= 65535
    given_remotes = [columns[c] for c in ("remote_ip_prefix", "remote_group", "remote_address_group")]
    assert sum(remote is not None for remote in given_remotes) == sum(
        remote is not None for remote in (rule.remote_prefix, rule.remote_owner)
    )
    if rule.remote_prefix is not None:
        network = ipaddress.ip_network(rule.remote_prefix)
        assert (str(network), network.version) == (rule.remote_prefix, rule.ip_version)
        assert ipaddress.ip_interface(columns["remote_ip_prefix"]).ip in network
        assert "%" not in columns["remote_ip_prefix"]


@given(st.lists(TEXTS, unique=True, max_size=6), st.lists(TEXTS, unique=True, max_size=6))
def test_a_list_of_addresses_is_read_alike_with_and_without_what_was_known_before(first, second):
    def chunk(addresses: list[str]) -> Row:
        return row(owner=OTHER, chunk="0", addresses=addresses)

    before = filter_rows.address_chunk(chunk(first), None)
    after = filter_rows.address_chunk(chunk(second), before)
    assert after == filter_rows.address_chunk(chunk(second), None)
    for address in after.chunk.addresses:
        network = ipaddress.ip_network(address)
        single = network.prefixlen == network.max_prefixlen
        assert address == (str(network.network_address) if single else str(network))
        assert not (single and "/" in address)
    assert set(after.not_addresses) <= set(second)
    assert all(text in after.not_addresses for text in second if "%" in text)
    if after.chunk == before.chunk:
        assert after.chunk is before.chunk
