# SPDX-License-Identifier: Apache-2.0
"""``hostplane floating-ip``; floating IPs are called by their addresses."""

from __future__ import annotations

import argparse

from agent.cli.objects import Verbs, of, with_names
from agent.cli.output import Row
from agent.cli.router_fields import FLOATING_IP
from agent.store.document import FloatingIpFields
from agent.store.records_routers import FloatingIpRecord
from agent.store.writer import Writer

ANY = "any"


def _shown(record: FloatingIpRecord) -> Row:
    return with_names(record, "network", "port", "router")


VERBS: Verbs[FloatingIpFields, FloatingIpRecord] = Verbs(
    noun=FLOATING_IP,
    list_all=Writer.list_floating_ips,
    get=Writer.get_floating_ip,
    create=lambda writer, name, fields: writer.create_floating_ip("" if name == ANY else name, fields),
    change=lambda writer, ref, fields, _: writer.set_floating_ip(ref, fields),
    delete=Writer.delete_floating_ip,
    shown=_shown,
    filters=(
        of("network", lambda record: (record.network, record.network_name)),
        of("router", lambda record: (record.router, record.router_name)),
        of("port", lambda record: (record.port, record.port_name)),
    ),
    renamable=False,
    called=f"the address, or {ANY!r} to take one of the network's",
    placeholder="ADDRESS",
    known_by="address or id",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
