# SPDX-License-Identifier: Apache-2.0
"""Zones and guard in nf_tables: the tables through ``nft``, their elements over netlink.

``inet hostplane`` gives packets that come in on a hybrid plug's bridge their conntrack
zone before the kernel puts fragments together (-400), so that fragments of two tenants
with equal addresses never meet.  ``bridge hostplane`` is the guard: behind all that
iptables does for bridged packets (br_netfilter, bridge priority -1) it lets nothing
pass that a filter of ours has not marked, so that a filter that is missing, flushed
or switched off with ``bridge-nf-call-iptables`` shuts instead of opening.

What ``nft -j list`` prints is compared, but for handles and elements, with what we
would write, so that anything changed by hand is seen.  An nft that prints in another
way than ours is believed after it has printed what was written a moment ago.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agent.command import Runner
from agent.core.errors import ApplyError, CommandError
from agent.core.naming import ALLOWED_MARK, ZONED_MARK
from agent.drivers.zones_netlink import join
from agent.drivers.zones_text import BOTH_MARKS, PRESENT, ZoneElements, Zones, ZoneState, is_untracked, zone_of

INET, BRIDGE = "inet", "bridge"
_CLEARED = 0xFFFFFFFF ^ BOTH_MARKS
_FRAGMENT = 0x3FFF  # of IPv4's flags and offset: more fragments follow, or this is not the first
_Json: TypeAlias = Any  # what nft prints: lists and mappings of texts and numbers
_Form: TypeAlias = dict[str, list[_Json]]  # "<kind> <name>" -> what makes it what it is

# A packet that has been given a zone is tracked whatever comes later, and one that is not tracked is not put together
# from its fragments.  So of what is not to be tracked only fragments get their zone; they lack the mark that makes
# filters look at connections.
_INET_RULES = f"""\
  map zones {{ typeof iifname : ct zone; }}
  set untracked {{ type ifname; }}
  chain zones {{
    type filter hook prerouting priority -450; policy accept;
    iifname "qbr*" meta mark set meta mark & {_CLEARED:#x}
    iifname @untracked goto untracked
    ct zone set iifname map @zones meta mark set meta mark | {ZONED_MARK:#x}
  }}
  chain untracked {{
    ip frag-off & {_FRAGMENT:#x} == 0 notrack return
    exthdr frag missing notrack return
    ct zone set iifname map @zones
  }}
"""
# The marks go with the packet through the veth pair to Open vSwitch, whose flows could ask for them: cleared.
_BRIDGE_RULES = f"""\
  chain guard {{
    type filter hook forward priority 10; policy accept;
    iifname "qvb*" goto allowed
    oifname "qvb*" goto allowed
  }}
  chain allowed {{
    ether type arp accept
    ether type {{ ip, ip6 }} meta mark & {ALLOWED_MARK:#x} == {ALLOWED_MARK:#x} \
meta mark set meta mark & {_CLEARED:#x} accept
    drop
  }}
"""
_RULES = {INET: _INET_RULES, BRIDGE: _BRIDGE_RULES}


def _meta(key: str) -> _Json:
    return {"meta": {"key": key}}


def _match(left: _Json, right: _Json) -> _Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _set_mark(operator: str, number: int) -> _Json:
    return {"mangle": {"key": _meta("mark"), "value": {operator: [_meta("mark"), number]}}}


_ZONE_OF_DEVICE = {
    "mangle": {"key": {"ct": {"key": "zone"}}, "value": {"map": {"key": _meta("iifname"), "data": "@zones"}}}
}
_ETHER_TYPE = {"payload": {"protocol": "ether", "field": "type"}}
_FRAG_OFF = {"payload": {"protocol": "ip", "field": "frag-off"}}
_HAS_ALLOWED = _match({"&": [_meta("mark"), ALLOWED_MARK]}, ALLOWED_MARK)


def _base_chain(hook: str, priority: int) -> _Json:
    return {"type": "filter", "hook": hook, "prio": priority, "policy": "accept"}


# As nft 1.0.6 prints what is written above.
_FORMS: Mapping[str, _Form] = {
    INET: {
        "table hostplane": [{}],
        "map zones": [{"type": "ifname", "map": "integer"}],
        "set untracked": [{"type": "ifname"}],
        "chain zones": [
            _base_chain("prerouting", -450),
            [_match(_meta("iifname"), "qbr*"), _set_mark("&", _CLEARED)],
            [_match(_meta("iifname"), "@untracked"), {"goto": {"target": "untracked"}}],
            [_ZONE_OF_DEVICE, _set_mark("|", ZONED_MARK)],
        ],
        "chain untracked": [
            {},
            [_match({"&": [_FRAG_OFF, _FRAGMENT]}, 0), {"notrack": None}, {"return": None}],
            [
                _match({"exthdr": {"name": "frag"}}, False),
                {"notrack": None},
                {"return": None},
            ],
            [_ZONE_OF_DEVICE],
        ],
    },
    BRIDGE: {
        "table hostplane": [{}],
        "chain guard": [
            _base_chain("forward", 10),
            [_match(_meta("iifname"), "qvb*"), {"goto": {"target": "allowed"}}],
            [_match(_meta("oifname"), "qvb*"), {"goto": {"target": "allowed"}}],
        ],
        "chain allowed": [
            {},
            [_match(_ETHER_TYPE, "arp"), {"accept": None}],
            [_match(_ETHER_TYPE, {"set": ["ip", "ip6"]}), _HAS_ALLOWED, _set_mark("&", _CLEARED), {"accept": None}],
            [{"drop": None}],
        ],
    },
}


@dataclass(slots=True)
class _Listing:
    """A table of ours as it is."""

    form: _Form = field(default_factory=dict)
    zones: dict[str, int] = field(default_factory=dict)
    untracked: set[str] = field(default_factory=set)


class NftTables:
    """Both tables, or one of them.  See ``ZoneTable``; *families* are those that the kernel takes."""

    def __init__(self, run: Runner, families: Iterable[str], elements: ZoneElements) -> None:
        self._run = run
        self._families = tuple(families)
        self._elements = elements
        self._written: dict[str, _Form] = {}  # family -> what this nft prints after we have written it

    def read(self) -> ZoneState:
        """Return what is there."""
        listings = {family: self._list(family) for family in self._families}
        wrong = [
            f"{family} table {self._fault(family, one)}" for family, one in listings.items() if self._fault(family, one)
        ]
        if not any(listings.values()):
            return ZoneState()
        return ZoneState(", ".join(wrong) or PRESENT, _values(listings.get(INET)))

    def zones(self) -> Zones:
        """Return the zones that are there."""
        return self._elements.zones() if INET in self._families else {}

    def write_base(self, zones: Zones) -> None:
        """Make both tables anew, in one step."""
        self._nft("".join(_table(family, zones) for family in self._families))
        for family in self._families:
            listing = self._list(family)
            if listing is not None and _shape(listing.form) == _shape(_FORMS[family]):
                self._written[family] = listing.form

    def remove(self) -> None:
        """Take both tables away."""
        self._nft("".join(_no_table(family) for family in self._families))

    def write_zones(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        """Set the zones of some bridges (None: take it away), in one step."""
        self._elements.write(present, changes)

    def _fault(self, family: str, listing: _Listing | None) -> str:
        """Return what is wrong with a table, "" if nothing is."""
        if listing is None:
            return "missing"
        return "" if listing.form in (_FORMS[family], self._written.get(family)) else "changed"

    def _list(self, family: str) -> _Listing | None:
        try:
            printed = self._run(("nft", "-j", "list", "table", family, "hostplane"))
        except CommandError as err:
            if "No such file or directory" in err.stderr:
                return None
            raise
        try:
            return _parse(json.loads(printed))
        except (ValueError, LookupError, TypeError, AttributeError) as err:
            raise ApplyError(f"table {family} hostplane: nft prints what is not understood ({err!r})") from None

    def _nft(self, script: str) -> None:
        if script:
            self._run(("nft", "-f", "-"), stdin=script)


def supported(run: Runner) -> tuple[str, ...]:
    """Return the families whose table nft and the kernel would take.  Raises CommandError if nft hangs."""
    return tuple(family for family in (INET, BRIDGE) if _is_taken(run, family))


def _is_taken(run: Runner, family: str) -> bool:
    try:
        run(("nft", "--check", "-f", "-"), stdin=_table(family, {}))
    except CommandError as err:
        if err.returncode is None or "Operation not permitted" in err.stderr:
            raise
        return False
    return True


def _no_table(family: str) -> str:
    return f"add table {family} hostplane\ndelete table {family} hostplane\n"  # it need not be there


def _table(family: str, zones: Zones) -> str:
    """Return the script that puts a table of ours, with its elements, in the place of what is there."""
    script = f"{_no_table(family)}table {family} hostplane {{\n{_RULES[family]}}}\n"
    if family == INET:
        numbers = ", ".join(f'"{bridge}" : {zone_of(value)}' for bridge, value in zones.items() if zone_of(value))
        untracked = ", ".join(f'"{bridge}"' for bridge, value in zones.items() if is_untracked(value))
        script += f"add element inet hostplane zones {{ {numbers} }}\n" if numbers else ""
        script += f"add element inet hostplane untracked {{ {untracked} }}\n" if untracked else ""
    return script


def _values(listing: _Listing | None) -> dict[str, str]:
    """Return the items of a table's elements."""
    return {} if listing is None else join(listing.zones, listing.untracked)


def _parse(printed: _Json) -> _Listing:
    """Return a table from what ``nft -j list table`` prints."""
    listing = _Listing()
    form: dict[str, list[_Json]] = defaultdict(list)
    for entry in printed["nftables"]:
        for kind, what in entry.items():
            if kind == "metainfo":
                continue
            rest = {
                key: value for key, value in what.items() if key not in ("family", "table", "name", "handle", "elem")
            }
            if kind == "rule":
                rest.pop("chain")
                form[f"chain {what['chain']}"].append(rest["expr"] if rest.keys() == {"expr"} else rest)
                continue
            form[f"{kind} {what['name']}"].insert(0, rest)
            elements = [_element(element) for element in what.get("elem", ())]
            if kind == "map" and what["name"] == "zones":
                listing.zones = {
                    pair[0]: pair[1] for pair in elements if isinstance(pair[0], str) and isinstance(pair[1], int)
                }
            elif kind == "set" and what["name"] == "untracked":
                listing.untracked = {name for name in elements if isinstance(name, str)}
    listing.form = dict(form)
    return listing


def _element(element: _Json) -> _Json:
    """Return an element without its comment, counter or time-out."""
    if isinstance(element, dict):
        return element.get("elem", {}).get("val")
    if isinstance(element, list):
        return [_element(part) for part in element]
    return element


def _shape(form: _Form) -> dict[str, tuple[_Json, int]]:
    """Return what does not depend on how nft prints rules: hooks, and how many rules there are."""
    return {name: (parts[0], len(parts)) for name, parts in form.items()}
