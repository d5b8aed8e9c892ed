# SPDX-License-Identifier: Apache-2.0
"""``hostplane host``: hypervisors.  Agents announce their own; rows made here are for those that cannot."""

from __future__ import annotations

import argparse

from agent.cli.fields import HOST
from agent.cli.objects import Verbs, plain
from agent.cli.output import Row, age
from agent.store.document import HostFields
from agent.store.records import HostRecord
from agent.store.writer import Writer


def _shown(record: HostRecord) -> Row:
    row = dict(plain(record))
    if record.heartbeat is not None:
        row["heartbeat"] = f"{age(record.heartbeat)} ago"
    return row


VERBS: Verbs[HostFields, HostRecord] = Verbs(
    noun=HOST,
    list_all=Writer.list_hosts,
    get=Writer.get_host,
    create=Writer.create_host,
    change=lambda writer, ref, fields, _: writer.set_host(ref, fields),
    renamable=False,
    delete=Writer.delete_host,
    shown=_shown,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
