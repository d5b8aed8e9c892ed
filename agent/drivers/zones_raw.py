# SPDX-License-Identifier: Apache-2.0
"""Zones in the ``raw`` tables of iptables, for hosts where nf_tables cannot be used.

A chain that PREROUTING jumps to clears the marks and dispatches over the first two
characters of the port id, so that a packet's cost does not grow with the number of
bridges.  Every write puts all of our chains anew, in one transaction per family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from agent.command import Runner
from agent.core.errors import CommandError
from agent.core.naming import ZONED_MARK, rule_comment
from agent.drivers.zones_text import BOTH_MARKS, PRESENT, Zones, ZoneState, is_untracked, zone_of

_CHAIN = "hp-zones"
_JUMP = f"-i qbr+ -m comment --comment {rule_comment(_CHAIN)} -j {_CHAIN}"
_CLEAR = f"-j MARK --set-xmark 0x0/{BOTH_MARKS:#x}"
_ZONED = f"-j MARK --set-xmark {ZONED_MARK:#x}/{ZONED_MARK:#x}"
_LEGACY_TABLES = tuple(Path(f"/proc/thread-self/net/{family}_tables_names") for family in ("ip", "ip6"))
_FAMILIES = ("iptables", "ip6tables")
_WAIT = "5"  # seconds for the lock that other users of iptables may hold
_OURS = re.compile(r"-A PREROUTING (.* )?-[jg] hp-zones$")
_ZONE = re.compile(r"-i (\S+) -j CT (?:(--notrack) )?--zone (\d+)(?: (--notrack))?")


class RawTables:
    """Our chains in both families' ``raw`` table.  See ``ZoneTable``."""

    def __init__(self, run: Runner, backend: str) -> None:
        self._run = run
        self._programs = tuple(f"{family}-{backend}" if backend else family for family in _FAMILIES)

    def read(self) -> ZoneState:
        """Return what is there; a bridge's value is as wanted only if it is so in both families."""
        first, second = (_parse(self._saved(program)) for program in self._programs)
        if first.base is None and second.base is None:
            return ZoneState()
        zones = {
            bridge: one
            if (one := first.zones.get(bridge, "0")) == (other := second.zones.get(bridge, "0"))
            else f"{one} and {other}"
            for bridge in {*first.zones, *second.zones}
        }
        faults = [state.base or "missing" for state in (first, second) if state.base != PRESENT]
        return ZoneState(", ".join(faults) or PRESENT, zones)

    def zones(self) -> Zones:
        """Return the zones that are there."""
        return self.read().zones

    def write_base(self, zones: Zones) -> None:
        """Put all of our chains, and one jump to them before all other rules."""
        self._write(zones)

    def remove(self) -> None:
        """Take our chains and jumps away."""
        self._write(None)

    def write_zones(self, present: Zones, changes: Mapping[str, str | None]) -> None:
        """Set the zones of some bridges (None: take it away)."""
        self._write({bridge: value for bridge, value in {**present, **changes}.items() if value is not None})

    def _write(self, zones: Mapping[str, str] | None) -> None:
        for program in self._programs:
            script = _script(self._saved(program), None if zones is None else _render(zones))
            self._run((f"{program}-restore", "--noflush", "-w", _WAIT), stdin=script)

    def _saved(self, program: str) -> list[str]:
        """Return the lines of the table that are about our chains."""
        lines = self._run((f"{program}-save", "-t", "raw")).replace('"', "").splitlines()  # legacy quotes nothing
        return [line for line in lines if _CHAIN in line or line.startswith("-A PREROUTING ")]


def remove_leftovers(run: Runner) -> None:
    """Take away what an earlier process made here that could not use nf_tables: it would clear our marks.

    Looks first, because a legacy table comes into being when it is read.  Raises CommandError.
    """
    for family in ("ip", "ip6"):
        try:
            run(("nft", "list", "chain", family, "raw", _CHAIN))
        except CommandError:
            continue  # the usual case
        RawTables(run, "nft").remove()
    if any("raw" in names.read_text().split() for names in _LEGACY_TABLES if names.exists()):
        legacy = RawTables(run, "legacy")
        if legacy.read() != ZoneState():
            legacy.remove()


def _render(zones: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the rules of each of our chains."""
    chains: dict[str, list[str]] = {_CHAIN: [_CLEAR]}
    for bridge, value in sorted(zones.items()):
        if not zone_of(value):
            continue  # unreadable: it is as if there were none
        chain = _CHAIN
        for length in (1, 2):
            prefix = bridge[3 : 3 + length]
            node = f"{_CHAIN}-{prefix}"
            if node not in chains:
                chains[node] = []
                chains[chain].append(f"-i qbr{prefix}+ -g {node}")
            chain = node
        notrack = " --notrack" if is_untracked(value) else ""
        chains[chain] += [f"-i {bridge} -j CT{notrack} --zone {zone_of(value)}", f"-i {bridge} {_ZONED}"]
    return chains


def _chains(saved: list[str]) -> dict[str, list[str]]:
    """Return our chains and their rules from a table's text."""
    chains: dict[str, list[str]] = {line[1:].split()[0]: [] for line in saved if line.startswith(f":{_CHAIN}")}
    for line in saved:
        _, chain, *rule = line.split(" ", 2)
        if line.startswith("-A ") and chain in chains:
            chains[chain].append(rule[0] if rule else "")
    return chains


def _parse(saved: list[str]) -> ZoneState:
    chains = _chains(saved)
    jumps = [line for line in saved if _OURS.match(line)]
    if not chains and not jumps:
        return ZoneState()
    zones = {}
    for rule in (rule for rules in chains.values() for rule in rules):
        match = _ZONE.fullmatch(rule)
        if match:
            zones[match[1]] = match[3] + (" notrack" if match[2] or match[4] else "")
    first = next((line for line in saved if line.startswith("-A PREROUTING ")), "")
    right = len(jumps) == 1 and first == jumps[0] == f"-A PREROUTING {_JUMP}"
    present = {name: [_normal(rule) for rule in rules] for name, rules in chains.items()}
    return ZoneState(PRESENT if right and present == _render(zones) else "changed", zones)


def _normal(rule: str) -> str:
    """Return a rule as ``_render`` writes it, whichever order it is printed in."""
    match = _ZONE.fullmatch(rule)
    if not match:
        return rule
    notrack = " --notrack" if match[2] or match[4] else ""
    return f"-i {match[1]} -j CT{notrack} --zone {match[3]}"


def _script(saved: list[str], wanted: Mapping[str, list[str]] | None) -> str:
    """Return what puts the chains *wanted* (None: none at all) in the place of those in *saved*."""
    chains = wanted or {}
    stale = [name for name in _chains(saved) if name not in chains]
    lines = ["*raw", *(f":{name} - [0:0]" for name in (*chains, *stale))]  # what is there is emptied
    lines += ["-D " + line.removeprefix("-A ") for line in saved if _OURS.match(line)]
    lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
    lines += [f"-I PREROUTING 1 {_JUMP}"] if chains else []
    lines += [f"-X {name}" for name in stale]
    return "\n".join([*lines, "COMMIT", ""])
