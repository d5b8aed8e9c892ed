# SPDX-License-Identifier: Apache-2.0
"""The verbs that every noun has: list, show, create, set, delete."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

from agent.cli.field_options import add_field_options, given_fields
from agent.cli.fields import Noun
from agent.cli.options import Settings, add_common, settings
from agent.cli.output import Format, Row, Value, complain, print_row, print_rows, print_value, write_line
from agent.cli.store import open_store
from agent.cli.waiting import add_wait, wait
from agent.core.errors import InputError
from agent.store.document import UNSET, F, Unset, given
from agent.store.records import Written
from agent.store.writer import Writer


class Plain(Protocol):
    """What can be shown to programs."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""


class Record(Plain, Protocol):
    """What the writer's ``get`` and ``list`` return."""

    @property
    def name(self) -> str:
        """What people call the object."""

    @property
    def id(self) -> str:
        """Its id."""


R = TypeVar("R", bound=Record)
VerbParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


@dataclass(frozen=True, slots=True)
class Filter(Generic[R]):
    """An option of ``list`` that leaves only some objects: ``matches(record, value)``."""

    option: str
    help: str
    matches: Callable[[R, str], bool]


class Owned(Record, Protocol):
    """A record of an object that belongs to a project."""

    @property
    def project(self) -> str:
        """Who it belongs to."""


P = TypeVar("P", bound=Owned)


def of_project() -> Filter[P]:
    """Return the filter by project."""
    return Filter("project", "only those of this project", lambda record, value: record.project == value)


def of(noun: str, names: Callable[[R], tuple[str | None, ...]], which: str = "of") -> Filter[R]:
    """Return the filter by another object, *which* is how the objects are its; *names* returns its id and name."""
    return Filter(noun, f"only those {which} this {noun} (name or id)", lambda record, value: value in names(record))


def with_names(record: Plain, *nouns: str) -> dict[str, Value]:
    """Return all columns of a record; of other objects, ids with names beside them, the names if there are any."""
    row = dict(plain(record))
    for noun in nouns:
        row[noun] = row.pop(f"{noun}_name") or row[noun]
    return row


@dataclass(frozen=True, slots=True)
class Verbs(Generic[F, R]):
    """A noun and the writer's methods for it.

    ``shown`` makes a record's row for people, ``listed`` that of a list where it is another.
    ``called`` tells what a new object can be called, and ``placeholder`` stands for that;
    ``known_by`` tells what it is called later.
    """

    noun: Noun[F]
    list_all: Callable[[Writer], Sequence[R]]
    get: Callable[[Writer, str], R]
    create: Callable[[Writer, str, F], Written[R]]
    change: Callable[[Writer, str, F, str | Unset], Written[R]]
    delete: Callable[[Writer, str], Written[R]]
    shown: Callable[[R], Row]
    filters: tuple[Filter[R], ...] = ()
    renamable: bool = True
    listed: Callable[[R], Row] | None = None
    called: str = "what to call it"
    placeholder: str = "NAME"
    known_by: str = "name or id"

    def configure(self, parser: argparse.ArgumentParser) -> VerbParsers:
        """Add the verbs to the noun's parser; return where more of them can be added."""
        add_common(parser)
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        noun = self.noun.name
        a_noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

        listing = verbs.add_parser("list", help=f"all {noun}s")
        for chosen in self.filters:
            listing.add_argument(f"--{chosen.option}", dest=f"only_{chosen.option}", help=chosen.help)
        listing.set_defaults(run=self._list)

        show = verbs.add_parser("show", help=f"everything about {a_noun}")
        show.add_argument("ref", metavar=self.noun.metavar, help=self.known_by)
        show.set_defaults(run=self._show)

        create = verbs.add_parser("create", help=f"make {a_noun}")
        create.add_argument("ref", metavar=self.placeholder, help=self.called)
        create.set_defaults(run=self._create)

        change = verbs.add_parser("set", help=f"change fields of {a_noun}")
        change.add_argument("ref", metavar=self.noun.metavar, help=self.known_by)
        if self.renamable:
            change.add_argument("--name", metavar="NEW", default=UNSET, help="what to call it from now on")
        change.set_defaults(run=self._set)

        delete = verbs.add_parser("delete", help=f"delete {noun}s")
        delete.add_argument("refs", metavar=self.noun.metavar, nargs="+", help=self.known_by)
        delete.set_defaults(run=self._delete)

        for writing in (create, change):
            add_field_options(writing, self.noun.fields)
        for writing in (create, change, delete):
            add_wait(writing)
        for verb in (listing, show, create, change, delete):
            add_common(verb)
        return verbs

    def _list(self, args: argparse.Namespace) -> int:
        ask = settings(args)
        with open_store(ask) as writer:
            records = self.list_all(writer)
        for chosen in self.filters:
            value = getattr(args, f"only_{chosen.option}")
            if value is not None:
                records = [record for record in records if chosen.matches(record, value)]
        if ask.output is Format.TABLE:
            row = self.listed or self.shown
            print_rows([row(record) for record in records], self.noun.columns, ask.output)
            if not records:
                complain(f"no {self.noun.section.replace('_', ' ')}")
        else:
            print_value([plain(record) for record in records], ask.output)
        return 0

    def _show(self, args: argparse.Namespace) -> int:
        ask = settings(args)
        with open_store(ask) as writer:
            self._print(self.get(writer, args.ref), ask)
        return 0

    def _create(self, args: argparse.Namespace) -> int:
        ask = settings(args)
        with open_store(ask) as writer:
            written = self.create(writer, args.ref, given_fields(args, self.noun))
            self._print(written.result, ask)
            return wait(args, writer, [written])

    def _set(self, args: argparse.Namespace) -> int:
        ask = settings(args)
        fields = given_fields(args, self.noun)
        name: str | Unset = getattr(args, "name", UNSET)
        if not given(fields) and name is UNSET:
            raise InputError(f"{self.noun.name} {args.ref}: no field is given, so there is nothing to change")
        with open_store(ask) as writer:
            return self.tell_change(args, writer, self.change(writer, args.ref, fields, name))

    def tell_change(self, args: argparse.Namespace, writer: Writer, written: Written[R]) -> int:
        """Print what came of a change, wait if that was asked for, and return the exit status."""
        ask = settings(args)
        if ask.output is Format.TABLE:
            write_line(f"{self._label(written.result)} {'changed' if written.changed else 'was so already'}")
        else:
            self._print(written.result, ask)
        return wait(args, writer, [written])

    def _delete(self, args: argparse.Namespace) -> int:
        ask = settings(args)
        deleted = []
        with open_store(ask) as writer:
            for ref in args.refs:
                deleted.append(self.delete(writer, ref))
                if ask.output is Format.TABLE:
                    write_line(f"{self._label(deleted[-1].result)} deleted")
            if ask.output is not Format.TABLE:
                print_value([plain(written.result) for written in deleted], ask.output)
            return wait(args, writer, deleted)

    def _label(self, record: R) -> str:
        return f"{self.noun.name} {record.name or record.id}"

    def _print(self, record: R, ask: Settings) -> None:
        print_row(self.shown(record) if ask.output is Format.TABLE else plain(record), ask.output)


def plain(record: Plain) -> Row:
    """Return all of a record for programs."""
    return cast("Row", record.to_dict())
