# SPDX-License-Identifier: Apache-2.0
"""``hostplane floating-ip``; floating IPs are called by their addresses."""

from __future__ import annotations

import argparse

from agent.cli.objects import Filter, Verbs, plain
from agent.cli.output import Row
from agent.cli.router_fields import FLOATING_IP
from agent.store.document import FloatingIpFields
from agent.store.records_routers import FloatingIpRecord
from agent.store.writer import Writer

ANY = "any"


def _shown(record: FloatingIpRecord) -> Row:
    row = dict(plain(record))
    for name in ("network", "port", "router"):
        row[name] = row.pop(f"{name}_name") or row[name]
    return row


VERBS: Verbs[FloatingIpFields, FloatingIpRecord] = Verbs(
    noun=FLOATING_IP,
    list_all=Writer.list_floating_ips,
    get=Writer.get_floating_ip,
    create=lambda writer, name, fields: writer.create_floating_ip("" if name == ANY else name, fields),
    change=lambda writer, ref, fields, _: writer.set_floating_ip(ref, fields),
    delete=Writer.delete_floating_ip,
    shown=_shown,
    filters=(
        Filter(
            "network",
            "only those of this external network (name or id)",
            lambda record, value: value in (record.network, record.network_name),
        ),
        Filter(
            "router",
            "only those of this router (name or id)",
            lambda record, value: value in (record.router, record.router_name),
        ),
        Filter(
            "port",
            "only those of this port (name or id)",
            lambda record, value: value in (record.port, record.port_name),
        ),
    ),
    renamable=False,
    called=f"the address, or {ANY!r} to take one of the network's",
    placeholder="ADDRESS",
    known_by="address or id",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
