# SPDX-License-Identifier: Apache-2.0
"""What must hold in a store after any write, whoever wrote."""

from __future__ import annotations

from collections import Counter

from agent.store.writer import Writer
from agent.store.writer_session import View


def assert_consistent(writer: Writer) -> None:
    """Assert that derived rows and claims say exactly what the objects say."""
    writer.read(_check)


def _check(view: View) -> None:
    ports, networks = view.rows("Port"), view.rows("Network")
    told = Counter((e.network.uuid, e.mac, tuple(sorted(e.addresses)), e.host) for e in view.rows("Endpoint"))
    assert told == Counter((p.network.uuid, p.mac_address, tuple(sorted(p.fixed_ips)), p.host) for p in ports)
    claimed = Counter((claim.network.uuid, claim.address) for claim in view.rows("IP_Allocation"))
    assert claimed == Counter((p.network.uuid, address) for p in ports for address in p.fixed_ips)
    assert not [address for address, times in claimed.items() if times > 1]
    segments = Counter((s.type, s.physnet, s.id) for s in view.rows("Segment_Allocation"))
    wanted = [n for n in networks if n.type != "local"]
    assert segments == Counter((n.type, *(n.physnet or [""]), *(n.segmentation_id or [0])) for n in wanted)
    for port in ports:
        assert all(subnet is not None and subnet.network == port.network for subnet in port.fixed_ips.values())
    names = Counter((name.kind, name.name) for name in view.rows("Name"))
    named = [("network", networks), ("subnet", view.rows("Subnet")), ("port", ports)]
    assert names == Counter((kind, row.name) for kind, rows in named for row in rows if row.name_claim)
