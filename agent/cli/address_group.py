# SPDX-License-Identifier: Apache-2.0
"""``hostplane address-group``."""

from __future__ import annotations

import argparse

from agent.cli.fields import ADDRESS_GROUP
from agent.cli.objects import Verbs, of_project, plain
from agent.cli.options import add_common, settings
from agent.cli.output import Row
from agent.cli.store import open_store
from agent.cli.waiting import add_wait
from agent.store.document import AddressGroupFields
from agent.store.records import AddressGroupRecord
from agent.store.writer import Writer


def _listed(record: AddressGroupRecord) -> Row:
    return {**plain(record), "addresses": len(record.addresses)}


VERBS: Verbs[AddressGroupFields, AddressGroupRecord] = Verbs(
    noun=ADDRESS_GROUP,
    list_all=Writer.list_address_groups,
    get=Writer.get_address_group,
    create=Writer.create_address_group,
    change=lambda writer, ref, fields, name: writer.set_address_group(ref, fields, name=name),
    delete=Writer.delete_address_group,
    shown=plain,
    listed=_listed,
    filters=(of_project(),),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = VERBS.configure(parser)
    for name, text in (("add", "add addresses to a group"), ("remove", "remove addresses from a group")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("ref", metavar=ADDRESS_GROUP.metavar, help="name or id")
        verb.add_argument("addresses", metavar="CIDR", nargs="+", help="address or prefix")
        verb.set_defaults(run=_change, change=Writer.add_addresses if name == "add" else Writer.remove_addresses)
        add_wait(verb)
        add_common(verb)


def _change(args: argparse.Namespace) -> int:
    with open_store(settings(args)) as writer:
        return VERBS.tell_change(args, writer, args.change(writer, args.ref, tuple(args.addresses)))
