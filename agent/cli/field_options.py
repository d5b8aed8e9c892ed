# SPDX-License-Identifier: Apache-2.0
"""The fields of a noun as command-line options, and back to what the writer takes.

An option that is not given leaves its field alone.  Lists and mappings are given
item by item and replace what was there as a whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from agent.cli.fields import Field, Kind, Noun
from agent.cli.metadata_options import add_file_options, merged
from agent.store.document import F, FixedIpRequest, HostRoute

_EMPTY: dict[Kind, object] = {
    Kind.TEXTS: (),
    Kind.FIXED_IPS: (),
    Kind.ROUTES: (),
    Kind.INTERFACES: (),
    Kind.RULES: (),
    Kind.MAPPING: {},
    Kind.METADATA: {},
    Kind.BOOLEAN: False,
}
_REPEATED = (Kind.TEXTS, Kind.MAPPING, Kind.METADATA, Kind.FIXED_IPS, Kind.ROUTES, Kind.INTERFACES)
_PREFIX = "field_"  # keeps a noun's "host" apart from everything else in the namespace
_FROM_FILES = "_from_files"
_NOTHING = object()


def add_field_options(parser: argparse.ArgumentParser, fields: Sequence[Field]) -> None:
    """Add an option for each of *fields*, and one for "none" where there can be none."""
    group = parser.add_argument_group("fields")
    for field in fields:
        chosen = group.add_mutually_exclusive_group()
        if field.flag is not None and field.kind is Kind.BOOLEAN:
            _add_constant(chosen, field, field.flag, True, f"{field.help} ({field.negative_flag}: not)")
        elif field.flag is not None:
            repeated = field.kind in _REPEATED
            chosen.add_argument(
                field.flag,
                action="append" if repeated else "store",
                type=_TYPES[field.kind],
                metavar=field.metavar,
                default=argparse.SUPPRESS,
                dest=_PREFIX + field.name,
                help=field.help + _notes(field, repeated=repeated),
            )
        if field.negative_flag is not None:
            # Of a pair the first alone is explained; argparse cannot print a group that is all hidden.
            text = field.help if field.flag is None else argparse.SUPPRESS
            _add_constant(chosen, field, field.negative_flag, _EMPTY.get(field.kind), text)
        if field.none_flag is not None:
            _add_constant(chosen, field, field.none_flag, None)
        if field.kind is Kind.METADATA:
            add_file_options(group, _PREFIX + field.name + _FROM_FILES)


def _notes(field: Field, *, repeated: bool) -> str:
    """Return what the help says of an option beside its meaning."""
    none = f"{field.negative_flag}: none" if field.negative_flag and not field.none_flag else ""
    notes = [note for note in ("may be repeated" if repeated else "", none) if note]
    return f" ({'; '.join(notes)})" if notes else ""


def _add_constant(
    group: argparse._MutuallyExclusiveGroup,
    field: Field,
    flag: str,
    value: object,
    text: str = argparse.SUPPRESS,
) -> None:
    group.add_argument(
        flag, action="store_const", const=value, default=argparse.SUPPRESS, dest=_PREFIX + field.name, help=text
    )


def given_fields(args: argparse.Namespace, noun: Noun[F]) -> F:
    """Return the fields of *noun* that were given on the command line."""
    return noun.make(**given_values(args, noun.fields))


def given_values(args: argparse.Namespace, fields: Sequence[Field]) -> dict[str, object]:
    """Return those of *fields* that were given on the command line, by name."""
    found = ((field, _given(args, field)) for field in fields)
    return {field.name: _value(field, given) for field, given in found if given is not _NOTHING}


def _given(args: argparse.Namespace, field: Field) -> object:
    given: object = getattr(args, _PREFIX + field.name, _NOTHING)
    from_files = getattr(args, _PREFIX + field.name + _FROM_FILES, None)
    if from_files is None:
        return given
    return [*given, *from_files] if isinstance(given, list) else from_files


def _value(field: Field, given: object) -> object:
    if isinstance(given, list):
        if field.kind is Kind.METADATA:
            return merged(given)
        return dict(given) if field.kind is Kind.MAPPING else tuple(given)
    return given


def _fixed_ip(text: str) -> FixedIpRequest:
    if "=" not in text:
        return FixedIpRequest(address=text)
    parts = _parts(text, ("subnet", "address"))
    return FixedIpRequest(address=parts.get("address"), subnet=parts.get("subnet"))


def interface(text: str) -> FixedIpRequest:
    """Return the interface of a router of ``SUBNET`` or ``subnet=SUBNET,address=ADDRESS``."""
    if "=" not in text:
        return FixedIpRequest(subnet=text)
    parts = _parts(text, ("subnet", "address"))
    if "subnet" not in parts:
        raise argparse.ArgumentTypeError(f"{text!r} says no subnet")
    return FixedIpRequest(address=parts.get("address"), subnet=parts["subnet"])


def _host_route(text: str) -> HostRoute:
    # "gateway" is what OpenStack's command calls it.
    words = dict(part.partition("=")[::2] for part in text.split(","))
    hop = words.pop("gateway", "") or words.pop("nexthop", "")
    destination = words.pop("destination", "")
    if words or not hop or not destination:
        raise argparse.ArgumentTypeError(f"{text!r} is not destination=CIDR,nexthop=ADDRESS")
    return HostRoute(destination, hop)


def _parts(text: str, known: Sequence[str]) -> dict[str, str]:
    parts: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = word.partition("=")
        # "ip-address" is what OpenStack's command calls it.
        key = "address" if key == "ip-address" else key
        if key not in known or not equals or not value or key in parts:
            raise argparse.ArgumentTypeError(f"{text!r} is neither an address nor subnet=SUBNET[,address=ADDRESS]")
        parts[key] = value
    return parts


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


_TYPES: dict[Kind, Callable[[str], object]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.TEXTS: str,
    Kind.MAPPING: _pair,
    Kind.METADATA: _pair,
    Kind.NUMBER: float,
    Kind.FIXED_IPS: _fixed_ip,
    Kind.ROUTES: _host_route,
    Kind.INTERFACES: interface,
}
