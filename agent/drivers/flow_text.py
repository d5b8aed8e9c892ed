# SPDX-License-Identifier: Apache-2.0
"""OpenFlow flows as text: what ``ovs-ofctl`` prints, and the script that it reads.

Pure functions.  A flow of ours is the pair (key, actions) of ``agent.core.items``;
this module turns a dump into such pairs, a delta into one line per flow, and an
error message of ``ovs-ofctl`` into the lines that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from agent.core import naming
from agent.core.plan import Delta, Key

DEFAULT_PRIORITY = "priority=32768"  # what a dump leaves out, like "table=0"
OWN_COOKIE = naming.COOKIE_OWNER << 48
OWNER_SHIFT = 32
OWNER_BITS = 0xFFFF

# What a dump prints between table and match for a flow that was given more than match and actions.
_ATTRIBUTE = re.compile(
    r"(?:idle_timeout|hard_timeout|importance)=\d+"
    r"|send_flow_rem|check_overlap|reset_counts|no_packet_counts|no_byte_counts"
)
_PARSE_ERROR = re.compile(r"^(?:ovs-ofctl: )?-:(\d+): (.*)$", re.MULTILINE)
_SWITCH_ERROR = re.compile(r"^Error (\S+) for: OFPT_FLOW_MOD .*?\bcookie:0x([0-9a-f]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FlowMod:
    """One line of a bundle; ``cookie`` is what the flow is given, None for a deletion."""

    key: Key
    cookie: int | None
    line: str


def cookie_filter(owner_hash: int = 0, bits: int = 0) -> str:
    """Return the argument of ``dump-flows`` that selects flows of ours.

    Only those whose owner's hash is equal to *owner_hash* in the given *bits*.
    """
    value = OWN_COOKIE | (owner_hash & bits) << OWNER_SHIFT
    mask = naming.COOKIE_MASK | bits << OWNER_SHIFT
    return f"cookie=0x{value:016x}/0x{mask:016x}"


def common_bits(hashes: Collection[int]) -> int:
    """Return the bits in which all of *hashes* are equal."""
    same, first = OWNER_BITS, next(iter(hashes), 0)
    for each in hashes:
        same &= ~(each ^ first)
    return same


def parse_dump(text: str) -> dict[Key, str]:
    """Return the flows of ``dump-flows --no-stats --no-names`` as {key: actions}.

    A timeout, an importance or a flag, which flows of ours never have, is appended
    to the actions: whoever compares sees that the flow is not as it was written.
    """
    flows: dict[Key, str] = {}
    for line in text.split("\n"):
        head, found, actions = line.partition(" actions=")
        if not found:
            continue
        parts = head.split(", ")
        match = parts[-1]
        # The usual form; all others, with defaults left out or attributes, take the long way.
        if len(parts) == 3 and match.startswith("priority=") and " " not in match and parts[1].startswith("table="):
            flows[f"{parts[1]},{match}"] = actions
        else:
            key, attributes = _parse_head(head)
            flows[key] = f"{actions} [{attributes}]" if attributes else actions
    return flows


def _parse_head(head: str) -> tuple[Key, str]:
    """Return the key in what stands before the actions, and attributes that are not part of it."""
    table, attributes, match = "table=0", [], ""
    for word in head.replace(", ", " ").rstrip(",").split():
        if word.startswith("table="):
            table = word
        elif _ATTRIBUTE.fullmatch(word):
            attributes.append(word)
        elif not word.startswith("cookie="):
            match = word
    if not match.startswith("priority="):
        match = f"{DEFAULT_PRIORITY},{match}" if match else DEFAULT_PRIORITY
    return f"{table},{match}", " ".join(attributes)


def render_mods(delta: Delta) -> list[FlowMod]:
    """Return the lines of a bundle that writes *delta*.

    ``add`` replaces a flow with the same table, priority and match, so it serves for
    updates too.  A deletion names our cookie: a foreign flow is never taken away.
    """
    mods = [_add(key, str(value), delta.owners[key]) for key, value in delta.creates.items()]
    mods += [_add(key, str(new), delta.owners[key]) for key, (_, new) in delta.updates.items()]
    own = cookie_filter()
    mods += [FlowMod(key, None, f"delete_strict {own},{key}\n") for key in delta.deletes]
    return mods


def _add(key: Key, actions: str, owner: str) -> FlowMod:
    cookie = naming.flow_cookie(owner, key, actions)
    return FlowMod(key, cookie, f"add cookie=0x{cookie:016x},{key},actions={actions}\n")


def find_refused(stderr: str, mods: Iterable[FlowMod]) -> dict[Key, str]:
    """Return the flows that *stderr* of ``ovs-ofctl`` says are wrong, and why.

    A line that cannot be parsed is named by its number; a flow that the switch
    refuses by its cookie.  Empty if the error is about none of *mods*.
    """
    mods = list(mods)
    refused: dict[Key, str] = {}
    for number, reason in _PARSE_ERROR.findall(stderr):
        if 1 <= int(number) <= len(mods):
            refused[mods[int(number) - 1].key] = reason
    reasons = {int(cookie, 16): reason for reason, cookie in _SWITCH_ERROR.findall(stderr)}
    if reasons:
        refused.update({mod.key: reasons[mod.cookie] for mod in mods if mod.cookie in reasons})
    return refused
