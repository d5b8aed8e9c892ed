# SPDX-License-Identifier: Apache-2.0
"""``hostplane port-forwarding``; forwardings are called by what they take: ``203.0.113.11:2222/tcp``."""

from __future__ import annotations

import argparse

from agent.cli.objects import Verbs, of, with_names
from agent.cli.output import Row
from agent.cli.router_fields import PORT_FORWARDING
from agent.store.document import PortForwardingFields
from agent.store.records_routers import PortForwardingRecord
from agent.store.writer import Writer


def _shown(record: PortForwardingRecord) -> Row:
    return with_names(record, "port", "router")


VERBS: Verbs[PortForwardingFields, PortForwardingRecord] = Verbs(
    noun=PORT_FORWARDING,
    list_all=Writer.list_port_forwardings,
    get=Writer.get_port_forwarding,
    create=Writer.create_port_forwarding,
    change=lambda writer, ref, fields, _: writer.set_port_forwarding(ref, fields),
    delete=Writer.delete_port_forwarding,
    shown=_shown,
    filters=(
        of("router", lambda record: (record.router, record.router_name)),
        of("port", lambda record: (record.port, record.port_name), "to"),
    ),
    renamable=False,
    called="what is forwarded: ADDRESS:PORT or ADDRESS:FIRST-LAST",
    placeholder="EXTERNAL",
    known_by="what is forwarded (ADDRESS:PORT/PROTOCOL) or id",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
