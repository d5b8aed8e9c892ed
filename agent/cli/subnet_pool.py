# SPDX-License-Identifier: Apache-2.0
"""``hostplane subnet-pool``."""

from __future__ import annotations

import argparse

from agent.cli.objects import Verbs, of_project, plain
from agent.cli.router_fields import SUBNET_POOL
from agent.store.document import SubnetPoolFields
from agent.store.records_routers import SubnetPoolRecord
from agent.store.writer import Writer

VERBS: Verbs[SubnetPoolFields, SubnetPoolRecord] = Verbs(
    noun=SUBNET_POOL,
    list_all=Writer.list_subnet_pools,
    get=Writer.get_subnet_pool,
    create=Writer.create_subnet_pool,
    change=lambda writer, ref, fields, name: writer.set_subnet_pool(ref, fields, name=name),
    delete=Writer.delete_subnet_pool,
    shown=plain,
    filters=(of_project(),),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
