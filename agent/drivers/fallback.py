# SPDX-License-Identifier: Apache-2.0
"""Driver ``fallback``: translates floating IPs packet by packet where conntrack does not.

iptables translates by connection, and a packet that conntrack calls INVALID belongs to
none.  Gateways that change places make such packets of good connections: a gateway that
has seen the first packet of a handshake but not the answer takes all that comes later for
INVALID, whatever ``nf_conntrack_tcp_be_liberal`` says.  One address for one needs no
connection to be translated, so that is done here, in nf_tables, for these packets only.

Table ``ip hostplane`` of a router's namespace is ours.  It comes with the first floating
IP and goes with the last; one more is one more element of both its maps.  A script is one
transaction, so a process that dies leaves a table as it was or as it was to be.  What
stands there is read again while somebody has changed something in the namespace's
nf_tables since it was read (``rule_state``).

A namespace that is gone has taken its table with it.  Where ``nft`` is missing, nothing
else fails: sessions through floating IPs may be reset while a gateway moves.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from agent.command import NOT_FOUND, NOT_RUNNABLE, Runner
from agent.core import naming
from agent.core.errors import AgentError, ApplyError, CommandError
from agent.core.naming import FALLBACK_MARK
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers import nft_table
from agent.drivers.namespaces import names, open_ours, told
from agent.drivers.nft_table import NAME, Chain, Content, Family, TableReader
from agent.drivers.rule_state import RuleState, read_state
from agent.namespace import FOLDER, inside

CHANGED: Final = "changed"  # what is found in place of an address where the table is not as we write it
EMPTY: Final = "empty"  # word and value of the item of a table that translates nothing

_IN, _OUT = "fip_in", "fip_out"  # maps: floating IP to fixed address, and back
_MARKED = f"{FALLBACK_MARK:#x}"
_SET_MARK = f"meta mark set meta mark | {_MARKED}"
_HAIRPIN = f'iifname "qr-*" oifname "qr-*" meta mark & {_MARKED} == {_MARKED} ct state invalid'
_TO_FLOATING = f"ip saddr set ip saddr map @{_OUT}"
_OCTETS = 4
_UNUSABLE = (None, NOT_FOUND, NOT_RUNNABLE)  # a program that ends so does it in the next namespace, too

# Behind conntrack and marks, before iptables translates (-100), and before its filter (0), which lets pass what is
# marked.  Who has no floating IP and sends to one cannot be given an address without a connection.
_CHAINS: Final[Mapping[Chain, tuple[str, ...]]] = {
    Chain("in", "prerouting", -110): (f"ct state invalid ip daddr set ip daddr map @{_IN} {_SET_MARK} counter",),
    Chain("out", "forward", -5): (
        f'oifname "qg-*" ct state invalid {_TO_FLOATING} {_SET_MARK} counter',
        f"{_HAIRPIN} {_TO_FLOATING} accept",
        f"{_HAIRPIN} drop",
    ),
}
# Rules are recognized by their comment, so that those of another release are written anew.
_COMMENT: Final = f"hp:{hashlib.sha256(repr(_CHAINS).encode()).hexdigest()[:16]}"
_COMMENTS: Final = {chain.name: (_COMMENT,) * len(rules) for chain, rules in _CHAINS.items()}


@dataclass(slots=True)
class _Held:
    """What a namespace's table has.

    ``elements``: floating IP -> fixed address.  ``intact``: chains and both maps are as
    they should be; ``read_at``: the state in which that was read, None after it was written.
    """

    namespace: int
    exists: bool
    intact: bool
    elements: dict[str, str]
    read_at: RuleState | None

    def values(self) -> dict[str, Value]:
        """Return what is to be told of each address."""
        if self.exists and not self.elements:
            return {EMPTY: EMPTY}
        return {floating: fixed if self.intact else CHANGED for floating, fixed in self.elements.items()}


@dataclass(slots=True)
class _Work:
    """What is to be written into one namespace, by address."""

    wanted: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def words(self) -> Iterator[str]:
        yield from self.wanted
        yield from self.gone


class FallbackDriver:
    """Tables in the routers' namespaces that have a name in *folder*.  Used by the reconcile thread only."""

    name = "fallback"

    def __init__(self, run: Runner, folder: Path = FOLDER) -> None:
        self._run = run
        self._folder = folder
        self._held: dict[str, _Held] = {}

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back what is translated: everything, or those of *keys*.  Raises AgentError."""
        places = self.places() if keys is None else sorted({self.place_of(key) for key in keys})
        found: dict[Key, Value] = {}
        for place in places:
            found.update(self.observe_place(place))
        return found if keys is None else {key: value for key, value in found.items() if key in keys}

    def places(self) -> Collection[str]:
        """Return what is read at a time: a namespace."""
        found = list(filter(naming.is_router_namespace, names(self._folder)))
        for name in self._held.keys() - set(found):
            del self._held[name]
        return found

    def place_of(self, key: Key) -> str:
        """Return in which of ``places`` an item is."""
        return key.partition(" ")[0]

    def observe_place(self, place: str) -> dict[Key, Value]:
        """Read back what one namespace translates.  Raises AgentError."""
        namespace = open_ours(place, self._folder) if naming.is_router_namespace(place) else None
        if namespace is None:
            self._held.pop(place, None)
            return {}
        with namespace:
            try:
                with inside(namespace.descriptor):
                    held = self._look(place, read_state())
            except CommandError:
                raise
            except (OSError, ApplyError) as err:
                raise told(place, err) from err
        return {f"{place} {word}": value for word, value in held.values().items()}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*, a script for each namespace; return what was refused.

        Raises CommandError when ``nft`` cannot be used.
        """
        failed: dict[Key, Exception] = {}
        for space, work in _by_namespace(delta, failed).items():
            try:
                refused = self._write(space, work)
            except AgentError as err:
                if isinstance(err, CommandError) and err.returncode in _UNUSABLE:
                    raise
                refused = dict.fromkeys(work.words(), told(space, err))
            failed.update((f"{space} {word}", err) for word, err in refused.items())
        return failed

    def _look(self, space: str, state: RuleState) -> _Held:
        """Return what the namespace that the thread is in has.  Raises ApplyError."""
        held = self._held.get(space)
        if held is None or held.read_at != state or state.generation is None:
            self._held.pop(space, None)
            with TableReader(Family.IPV4) as table:
                held = self._held[space] = _read(table, state)
        return held

    def _write(self, space: str, work: _Work) -> dict[str, ApplyError]:
        """Write what belongs into one namespace; return what cannot be held there.  Raises ApplyError."""
        namespace = open_ours(space, self._folder)
        if namespace is None:
            self._held.pop(space, None)
            return dict.fromkeys(work.wanted, ApplyError(f"there is no namespace {space} of hostplane's"))
        with namespace:
            try:
                with inside(namespace.descriptor):
                    return self._write_inside(space, work)
            except OSError as err:
                raise told(space, err) from err

    def _write_inside(self, space: str, work: _Work) -> dict[str, ApplyError]:
        state = read_state()
        held = self._held.pop(space, None)  # until it is known how this ends
        if held is None or held.namespace != state.namespace:
            held = self._look(space, state)
        refused, elements = _after(held, work)
        script = _script(held, elements)
        try:
            if script:
                nft_table.write(self._run, script)
        except CommandError as err:
            if err.returncode in _UNUSABLE:
                raise
            # Somebody else has changed it since we knew it.
            nft_table.write(self._run, nft_table.without_table(Family.IPV4) + _whole(elements))
        self._held[space] = _Held(state.namespace, bool(elements), True, elements, None)
        return refused


def _read(table: TableReader, state: RuleState) -> _Held:
    """Return what the table has.  Raises ApplyError."""
    content = table.content()
    if content is None:
        return _Held(state.namespace, exists=False, intact=False, elements={}, read_at=state)
    there, back = _addresses(table.elements(_IN)), _addresses(table.elements(_OUT))
    intact = content == Content(frozenset(_CHAINS), _COMMENTS)
    intact &= there == {floating: fixed for fixed, floating in back.items()}
    elements = {floating: fixed for fixed, floating in back.items()} | there
    return _Held(state.namespace, exists=True, intact=intact, elements=elements, read_at=state)


def _addresses(elements: Mapping[bytes, bytes]) -> dict[str, str]:
    found = ((key, value) for key, value in elements.items() if len(key) == len(value) == _OCTETS)
    return {socket.inet_ntoa(key): socket.inet_ntoa(value) for key, value in found}


def _after(held: _Held, work: _Work) -> tuple[dict[str, ApplyError], dict[str, str]]:
    """Return what of *work* cannot be done, and all that is to be translated then."""
    touched = set(work.words())
    elements = {floating: fixed for floating, fixed in held.elements.items() if floating not in touched}
    owners = {fixed: floating for floating, fixed in elements.items()}
    refused: dict[str, ApplyError] = {}
    for floating, fixed in work.wanted.items():
        if owners.setdefault(fixed, floating) == floating:
            elements[floating] = fixed
        else:
            refused[floating] = ApplyError(f"{owners[fixed]} stands for {fixed} already")
    return refused, elements


def _script(held: _Held, elements: Mapping[str, str]) -> str:
    """Return what makes a table that has *held* have *elements*, "" if it does."""
    if not held.exists and not elements:
        return ""
    if not held.exists:
        return f"create table ip {NAME}\n{_whole(elements)}"
    if not held.intact or not elements:
        return nft_table.without_table(Family.IPV4) + _whole(elements)
    old = [(floating, fixed) for floating, fixed in held.elements.items() if elements.get(floating) != fixed]
    new = [(floating, fixed) for floating, fixed in elements.items() if held.elements.get(floating) != fixed]
    lines: list[str] = []
    if old:
        lines += (_change("delete", _IN, (floating for floating, _ in old)),)
        lines += (_change("delete", _OUT, (fixed for _, fixed in old)),)
    if new:
        lines += (_change("add", _IN, (f"{floating} : {fixed}" for floating, fixed in new)),)
        lines += (_change("add", _OUT, (f"{fixed} : {floating}" for floating, fixed in new)),)
    return "".join(lines)


def _whole(elements: Mapping[str, str]) -> str:
    """Return what makes a table that has *elements* where there is none, "" if there are none."""
    if not elements:
        return ""
    lines = [f"table ip {NAME} {{"]
    lines += [f"  map {name} {{ type ipv4_addr : ipv4_addr; }}" for name in (_IN, _OUT)]
    for chain, rules in _CHAINS.items():
        lines.append(f"  chain {chain.name} {{")
        lines.append(f"    type filter hook {chain.hook} priority {chain.priority}; policy accept;")
        lines += (f'    {rule} comment "{_COMMENT}"' for rule in rules)
        lines.append("  }")
    lines.append("}\n")
    there = (f"{floating} : {fixed}" for floating, fixed in elements.items())
    back = (f"{fixed} : {floating}" for floating, fixed in elements.items())
    return "\n".join(lines) + _change("add", _IN, there) + _change("add", _OUT, back)


def _change(verb: str, name: str, elements: Iterable[str]) -> str:
    return f"{verb} element ip {NAME} {name} {{ {', '.join(elements)} }}\n"


def _by_namespace(delta: Delta, failed: dict[Key, Exception]) -> dict[str, _Work]:
    """Return *delta* by namespace; what is no translation is in *failed* then."""
    found: dict[str, _Work] = {}
    for key, value in (*delta.creates.items(), *((key, new) for key, (_, new) in delta.updates.items())):
        space, _, floating = key.partition(" ")
        if (
            naming.is_router_namespace(space)
            and _is_address(floating)
            and isinstance(value, str)
            and _is_address(value)
        ):
            found.setdefault(space, _Work()).wanted[floating] = value
        else:
            failed[key] = ApplyError(f"{key!r} cannot be translated to {value!r}")
    for key in delta.deletes:
        space, _, floating = key.partition(" ")
        found.setdefault(space, _Work()).gone.add(floating)
    return found


def _is_address(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text
    except ValueError:
        return False
