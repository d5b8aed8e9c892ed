# SPDX-License-Identifier: Apache-2.0
"""``hostplane metadata-service``: where instances' metadata come from that have none in the store."""

from __future__ import annotations

import argparse

from agent.cli.field_options import add_field_options, given_fields
from agent.cli.fields import METADATA_SERVICE
from agent.cli.objects import plain
from agent.cli.options import Settings, add_common, settings
from agent.cli.output import Format, complain, print_row, print_value, write_line
from agent.cli.store import open_store
from agent.cli.waiting import add_wait, wait
from agent.core.errors import InputError
from agent.store.document import given
from agent.store.records import MetadataServiceRecord

_NONE = "no metadata service: instances are served from the store"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    add_common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="which one it is; null in JSON if there is none")
    show.set_defaults(run=_show)
    change = verbs.add_parser("set", help="name it, or change fields of the one that is named")
    add_field_options(change, METADATA_SERVICE.fields)
    change.set_defaults(run=_set)
    unset = verbs.add_parser("unset", help="name none any more")
    unset.set_defaults(run=_unset)
    for writing in (change, unset):
        add_wait(writing)
    for verb in (show, change, unset):
        add_common(verb)


def _show(args: argparse.Namespace) -> int:
    ask = settings(args)
    with open_store(ask) as writer:
        _print(writer.get_metadata_service(), ask)
    return 0


def _print(record: MetadataServiceRecord | None, ask: Settings) -> None:
    if record is not None:
        print_row(plain(record), ask.output)
    elif ask.output is Format.TABLE:
        complain(_NONE)
    else:
        print_value(None, ask.output)


def _set(args: argparse.Namespace) -> int:
    ask = settings(args)
    fields = given_fields(args, METADATA_SERVICE)
    if not given(fields):
        raise InputError("metadata service: no field is given, so there is nothing to change")
    with open_store(ask) as writer:
        written = writer.set_metadata_service(fields)
        if ask.output is Format.TABLE:
            write_line(f"metadata service {'changed' if written.changed else 'was so already'}")
        else:
            _print(written.result, ask)
        return wait(args, writer, [written])


def _unset(args: argparse.Namespace) -> int:
    ask = settings(args)
    with open_store(ask) as writer:
        written = writer.unset_metadata_service()
        if ask.output is not Format.TABLE:
            _print(written.result, ask)
        else:
            write_line("metadata service unset" if written.changed else "there was no metadata service")
        return wait(args, writer, [written])
