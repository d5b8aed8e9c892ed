# SPDX-License-Identifier: Apache-2.0
"""``hostplane subnet``."""

from __future__ import annotations

import argparse

from agent.cli.fields import SUBNET
from agent.cli.objects import Filter, Verbs, plain
from agent.cli.output import Row
from agent.store.document import SubnetFields
from agent.store.records import SubnetRecord
from agent.store.writer import Writer


def _shown(record: SubnetRecord) -> Row:
    row = dict(plain(record))
    row["network"] = row.pop("network_name") or record.network
    row["host_routes"] = [f"{route.destination} via {route.nexthop}" for route in record.host_routes]
    return row


VERBS: Verbs[SubnetFields, SubnetRecord] = Verbs(
    noun=SUBNET,
    list_all=Writer.list_subnets,
    get=Writer.get_subnet,
    create=lambda writer, name, fields: writer.create_subnet(name, fields),
    change=lambda writer, ref, fields, name: writer.set_subnet(ref, fields, name=name),
    delete=Writer.delete_subnet,
    shown=_shown,
    filters=(
        Filter(
            "network",
            "only those of this network (name or id)",
            lambda record, value: value in (record.network, record.network_name),
        ),
    ),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
