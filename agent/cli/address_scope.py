# SPDX-License-Identifier: Apache-2.0
"""``hostplane address-scope``."""

from __future__ import annotations

import argparse

from agent.cli.objects import Verbs, of_project, plain
from agent.cli.router_fields import ADDRESS_SCOPE
from agent.store.document import AddressScopeFields
from agent.store.records_routers import AddressScopeRecord
from agent.store.writer import Writer

VERBS: Verbs[AddressScopeFields, AddressScopeRecord] = Verbs(
    noun=ADDRESS_SCOPE,
    list_all=Writer.list_address_scopes,
    get=Writer.get_address_scope,
    create=Writer.create_address_scope,
    change=lambda writer, ref, fields, name: writer.set_address_scope(ref, fields, name=name),
    delete=Writer.delete_address_scope,
    shown=plain,
    filters=(of_project(),),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
