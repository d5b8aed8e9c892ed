# SPDX-License-Identifier: Apache-2.0
"""``hostplane subnet``."""

from __future__ import annotations

import argparse

from agent.cli.fields import SUBNET
from agent.cli.objects import Verbs, of, with_names
from agent.cli.output import Row
from agent.store.document import SubnetFields
from agent.store.records import SubnetRecord
from agent.store.writer import Writer


def _shown(record: SubnetRecord) -> Row:
    row = with_names(record, "network")
    row["host_routes"] = [f"{route.destination} via {route.nexthop}" for route in record.host_routes]
    return row


VERBS: Verbs[SubnetFields, SubnetRecord] = Verbs(
    noun=SUBNET,
    list_all=Writer.list_subnets,
    get=Writer.get_subnet,
    create=Writer.create_subnet,
    change=lambda writer, ref, fields, name: writer.set_subnet(ref, fields, name=name),
    delete=Writer.delete_subnet,
    shown=_shown,
    filters=(of("network", lambda record: (record.network, record.network_name)),),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
