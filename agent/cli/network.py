# SPDX-License-Identifier: Apache-2.0
"""``hostplane network``."""

from __future__ import annotations

import argparse

from agent.cli.fields import NETWORK
from agent.cli.objects import Filter, Verbs, plain
from agent.store.document import NetworkFields
from agent.store.records import NetworkRecord
from agent.store.writer import Writer

VERBS: Verbs[NetworkFields, NetworkRecord] = Verbs(
    noun=NETWORK,
    list_all=Writer.list_networks,
    get=Writer.get_network,
    create=Writer.create_network,
    change=lambda writer, ref, fields, name: writer.set_network(ref, fields, name=name),
    delete=Writer.delete_network,
    shown=plain,
    filters=(
        Filter("type", "only those of this type", lambda record, value: record.type == value),
        Filter("physnet", "only those on this one", lambda record, value: record.physnet == value),
    ),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
