# SPDX-License-Identifier: Apache-2.0
"""``hostplane security-group``."""

from __future__ import annotations

import argparse

from agent.cli.fields import SECURITY_GROUP
from agent.cli.objects import Verbs, of_project, plain
from agent.cli.output import Row, table
from agent.cli.rule_view import COLUMNS, cells
from agent.store.document import SecurityGroupFields
from agent.store.records import SecurityGroupRecord
from agent.store.writer import Writer


def _shown(record: SecurityGroupRecord) -> Row:
    """Return everything, the rules as lines of a table."""
    return {**plain(record), "rules": table([cells(rule) for rule in record.rules], COLUMNS)}


def _listed(record: SecurityGroupRecord) -> Row:
    return {**plain(record), "rules": len(record.rules)}


VERBS: Verbs[SecurityGroupFields, SecurityGroupRecord] = Verbs(
    noun=SECURITY_GROUP,
    list_all=Writer.list_security_groups,
    get=Writer.get_security_group,
    create=Writer.create_security_group,
    change=lambda writer, ref, fields, name: writer.set_security_group(ref, fields, name=name),
    delete=Writer.delete_security_group,
    shown=_shown,
    listed=_listed,
    filters=(of_project(),),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
