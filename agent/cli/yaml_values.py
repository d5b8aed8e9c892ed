# SPDX-License-Identifier: Apache-2.0
"""Values of a declarative file's fields, by the kind of field; what does not fit says what would."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from agent.cli.fields import Field, Kind
from agent.cli.suggest import near
from agent.cli.yaml_tree import Entry, Node, Scalar, Sequence, Table
from agent.core.port_metadata import KEYS, META_PREFIX
from agent.store.document import FixedIpRequest, HostRoute
from agent.store.metadata_form import META, SSH_KEYS, VENDOR_DATA, vendor_text

_ROUTE = ("destination", "nexthop")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?")


class WrongValueError(Exception):
    """A value that does not fit its field; the text completes "object: field: "."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.line = node.line


def value_of(node: Node, field: Field) -> object:
    """Return what a field is given; raise WrongValueError."""
    if field.kind is Kind.TEXTS and field.nullable and is_null(node):
        if isinstance(node, Scalar) and not node.text:  # what was forgotten must not open a filter
            raise WrongValueError(node, "a value is missing; write [...], [] or null")
        return None
    read_many = _MANY.get(field.kind)
    if read_many is not None:
        return read_many(node)
    if is_null(node):
        if field.nullable:
            return None
        raise WrongValueError(node, "a value is missing")
    return _ONE.get(field.kind, text_of)(node)


def _texts(node: Node) -> tuple[str, ...]:
    return tuple(text_of(item) for item in listed(node))


def text_of(node: Node) -> str:
    """Return a plain value as text."""
    if not isinstance(node, Scalar) or node.is_null:
        raise WrongValueError(node, f"must be text, not {what(node)}")
    return node.text


def _integer(node: Node) -> int:
    text = node.text if isinstance(node, Scalar) else ""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise WrongValueError(node, f"must be a whole number, not {what(node)}")
    return int(text)


def _boolean(node: Node) -> bool:
    text = node.text.lower() if isinstance(node, Scalar) else ""
    if text not in ("true", "false", "yes", "no"):
        raise WrongValueError(node, f"must be true or false, not {what(node)}")
    return text in ("true", "yes")


def listed(node: Node) -> tuple[Node, ...]:
    """Return the items of a list; none of nothing."""
    if isinstance(node, Sequence):
        return node.items
    if is_null(node):
        return ()
    raise WrongValueError(node, f"must be a list, not {what(node)}; write [...] around it")


def mapping_of(node: Node) -> dict[str, str]:
    """Return a mapping of plain values; an empty one of nothing."""
    if is_null(node):
        return {}
    if not isinstance(node, Table):
        raise WrongValueError(node, f"must be a mapping, not {what(node)}")
    return {name: text_of(entry.value) for name, entry in node.entries.items()}


def _number(node: Node) -> float:
    text = node.text if isinstance(node, Scalar) else ""
    if not _DECIMAL.fullmatch(text):
        raise WrongValueError(node, f"must be a number, not {what(node)}")
    return float(text)


def table_of(node: Node, names: tuple[str, ...]) -> Mapping[str, Entry]:
    """Return the entries of a mapping whose keys are among *names*."""
    if not isinstance(node, Table):
        raise WrongValueError(node, f"must be a mapping, not {what(node)}")
    for name, entry in node.entries.items():
        if name not in names:
            raise WrongValueError(entry.value, f"unknown key {name!r}{near(name, names) or known(names)}")
    return node.entries


def _fixed_ips(node: Node) -> tuple[FixedIpRequest, ...]:
    return tuple(_fixed_ip(item) for item in listed(node))


def _fixed_ip(node: Node) -> FixedIpRequest:
    if not isinstance(node, Table):
        return FixedIpRequest(address=text_of(node))
    entries = table_of(node, ("address", "subnet"))
    if not entries:
        raise WrongValueError(node, "give an address, a subnet or both")
    return FixedIpRequest(**{name: text_of(entry.value) for name, entry in entries.items()})


def _interfaces(node: Node) -> tuple[FixedIpRequest, ...]:
    return tuple(_interface(item) for item in listed(node))


def _interface(node: Node) -> FixedIpRequest:
    """Return an interface of a router: a subnet, or subnet and address."""
    if not isinstance(node, Table):
        return FixedIpRequest(subnet=text_of(node))
    request = _fixed_ip(node)
    if request.subnet is None:
        raise WrongValueError(node, "subnet is missing; write {subnet: SUBNET, address: ADDRESS}")
    return request


def _host_routes(node: Node) -> tuple[HostRoute, ...]:
    return tuple(_host_route(item) for item in listed(node))


def _host_route(node: Node) -> HostRoute:
    words = {name: text_of(entry.value) for name, entry in table_of(node, _ROUTE).items()}
    missing = [name for name in _ROUTE if name not in words]
    if missing:
        raise WrongValueError(node, f"{missing[0]} is missing; write {{destination: CIDR, nexthop: ADDRESS}}")
    return HostRoute(**words)


def _metadata(node: Node) -> dict[str, str]:
    """Return an instance's metadata as the store keeps them: one text a key."""
    if is_null(node):
        return {}
    flat: dict[str, str] = {}
    for name, entry in table_of(node, (*KEYS, META)).items():
        if name == META:
            flat |= {META_PREFIX + key: text for key, text in mapping_of(entry.value).items()}
        elif name == SSH_KEYS:
            flat[name] = "\n".join(_texts(entry.value))
        elif name == VENDOR_DATA and isinstance(entry.value, Table):
            flat[name] = vendor_text(_json_object(entry.value))
        else:
            flat[name] = text_of(entry.value)
    return flat


def _json_object(table: Table) -> dict[str, object]:
    return {name: _json(entry.value) for name, entry in table.entries.items()}


def _json(node: Node) -> object:
    """Return a value of any kind: here YAML 1.2's plain words and numbers mean what they do in JSON."""
    if isinstance(node, Table):
        return _json_object(node)
    if isinstance(node, Sequence):
        return [_json(item) for item in node.items]
    if node.quoted:
        return node.text
    if node.is_null:
        return None
    if node.text in ("true", "false"):
        return node.text == "true"
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    return float(node.text) if _DECIMAL.fullmatch(node.text) else node.text


def is_null(node: Node) -> bool:
    """Tell whether nothing stands there."""
    return isinstance(node, Scalar) and node.is_null


def what(node: Node) -> str:
    """Return what stands there, in words."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    return "nothing" if node.is_null else repr(node.text[:60])


def known(names: Iterable[str]) -> str:
    """Return the names that there are, for what is none of them."""
    return f" (known: {', '.join(names)})"


_MANY: Mapping[Kind, Callable[[Node], object]] = {  # what may be nothing
    Kind.TEXTS: _texts,
    Kind.FIXED_IPS: _fixed_ips,
    Kind.ROUTES: _host_routes,
    Kind.INTERFACES: _interfaces,
    Kind.MAPPING: mapping_of,
    Kind.METADATA: _metadata,
}
_ONE: Mapping[Kind, Callable[[Node], object]] = {Kind.INTEGER: _integer, Kind.NUMBER: _number, Kind.BOOLEAN: _boolean}
