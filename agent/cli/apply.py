# SPDX-License-Identifier: Apache-2.0
"""``hostplane apply -f FILE``: make the store hold what a file says."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from agent.cli.options import add_common, settings
from agent.cli.output import Format, Row, Value, cell, print_value, printable, write_line
from agent.cli.store import open_store
from agent.cli.waiting import add_wait, wait
from agent.cli.yaml_file import has_no_section, parse_file
from agent.cli.yaml_tree import MAX_BYTES
from agent.core.errors import InputError
from agent.store import metadata_form
from agent.store.document import Document
from agent.store.records import Change

APPLY_TIMEOUT = 60.0  # seconds unless --timeout is given: 10,000 rules take 5 to 10
_DONE = {"create": "created", "change": "changed", "delete": "deleted"}
_WOULD = {"create": "to create", "change": "to change", "delete": "to delete"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="what to apply; - is standard input")
    parser.add_argument("--set", metavar="NAME", dest="set_name", help="note that these objects belong to set NAME")
    text = "delete what an earlier apply of the same --set made and the file no longer has"
    parser.add_argument("--prune", action="store_true", help=text)
    parser.add_argument("--yes", action="store_true", help="prune even if the file is empty")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    add_wait(parser)
    add_common(parser)
    parser.set_defaults(run=_run)


def read_document(file: str) -> Document:
    """Read and parse *file* (``-``: standard input); raises InputError that names it and the line."""
    return parse_file(_read(file), _source(file))


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as err:
        raise InputError(f"{file}: {err.strerror}") from None


def _source(file: str) -> str:
    return "standard input" if file == "-" else file


def _run(args: argparse.Namespace) -> int:
    if args.prune and not args.set_name:
        raise InputError("apply: --prune needs --set NAME: it removes only what an earlier apply of that set made")
    ask = settings(args, APPLY_TIMEOUT)
    data, source = _read(args.file), _source(args.file)
    document = parse_file(data, source)
    if args.prune and not (args.yes or args.dry_run) and has_no_section(data, source):
        # A template that came out empty looks the same.
        text = f"is empty, so --prune would delete all of set {args.set_name}; if that is meant, say --yes"
        raise InputError(f"{source}: {text}")
    with open_store(ask) as writer:
        try:
            written = writer.apply(document, set_name=args.set_name, prune=args.prune, dry_run=args.dry_run)
        except InputError as err:
            raise InputError(_in_file(source, str(err))) from None
        changes = written.result
        if ask.output is Format.TABLE:
            _print_changes(changes, _WOULD if args.dry_run else _DONE)
        else:
            revision = None if args.dry_run else written.revision
            listed = [cast("Row", change.to_dict()) for change in changes]
            print_value({"revision": revision, "dry_run": args.dry_run, "changes": listed}, ask.output)
        return 0 if args.dry_run else wait(args, writer, [written])


def _in_file(source: str, text: str) -> str:
    """Return an error of the writer, which knows the line but not the file that it is of, as one of the file."""
    found = re.match(r"line (\d+): ", text)
    return text if found is None else f"{source}:{found[1]}: {text[found.end() :]}"


def _print_changes(changes: Sequence[Change], verbs: dict[str, str]) -> None:
    for change in changes:
        whose = f" of project {printable(change.project)}" if change.project else ""
        called = f"{change.kind.replace('_', ' ')} {printable(change.name)}".rstrip()
        write_line(f"{called}{whose} {verbs[change.verb]}")
        if change.verb == "change":
            for field in change.fields:
                write_line(f"  {field.field}: {_show(field.field, field.old)} -> {_show(field.field, field.new)}")
    counts = Counter(change.verb for change in changes)
    total = ", ".join(f"{counts[verb]} {verbs[verb]}" for verb in verbs if counts[verb])
    write_line(total or "nothing to change")


def _show(field: str, value: object) -> str:
    if field == "metadata" and isinstance(value, Mapping):
        value = metadata_form.brief(value)
    return cell(cast("Value", value)) or "none"
