# SPDX-License-Identifier: Apache-2.0
"""One rule of iptables as text, in the one form that rules are compared in.

``iptables-save`` prints the same rule differently from one version and backend to the
next: states in another order, ``gre`` or ``47`` by what ``/etc/protocols`` says, defaults
that are named or not.  The canonical form is what version 1.8.9 prints (iptables(8),
iptables-extensions(8)), with two things fixed that it leaves open:

- A protocol that has a match of its own is named (tcp, udp, icmp, ipv6-icmp, sctp, dccp,
  udplite), every other one is a number.
- Matches stand in the order protocol, multiport, mark, connmark, conntrack, physdev, set,
  others, hashlimit and limit, comment; none of ours but the limits counts, so their order
  means nothing.

What is not known here stays as it is, word for word.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_UNQUOTED = re.compile(r"[A-Za-z0-9_-]+")  # what iptables-save prints without quotes
_ESCAPED = re.compile(r"\\(.)")
_ADDRESS = r"(?:[1-9]\d*(?:\.\d+){3}/[1-9]\d*|[0-9a-f:]+/[1-9]\d*)"
# Most of our rules as they are when there is nothing to be done; a twentieth of what taking them apart costs (34 us).
_CANONICAL_ALREADY = re.compile(
    rf"(?:-s {_ADDRESS} )?(?:-d {_ADDRESS} )?(?:-i q[a-z][\w-]+\+? )?"
    r"(?:-p (?:tcp(?: -m tcp --dport \d+)?|udp(?: -m udp --dport \d+)?) )?"
    r"(?:-m physdev --physdev-in \w[\w-]* --physdev-out \w[\w-]* --physdev-is-bridged )?"
    r"(?:-m set --match-set [\w-]+ (?:src|dst) )?"
    r'(?:-m comment --comment "hp:[0-9a-f]{16}" )?'
    r"(?:-[jg] hp-[\w-]+|-j (?:DNAT --to-destination|SNAT --to-source) [\d.]+(?::\d+)?|-j CT --notrack)"
)
_HEADER = ("-s", "-d", "-i", "-o", "-p", "-f")
_LONG = {
    "--source": "-s",
    "--src": "-s",
    "--destination": "-d",
    "--dst": "-d",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--protocol": "-p",
    "--proto": "-p",
    "--fragment": "-f",
    "--jump": "-j",
    "--goto": "-g",
    "--match": "-m",
}
_NAMED = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
# What iptables knows without /etc/protocols, and other names of the above.
_NUMBERS = {name: number for number, name in _NAMED.items()} | {
    "icmpv6": 58,
    "esp": 50,
    "ah": 51,
    "mh": 135,
    "ipv6-mh": 135,
    "all": 0,
}
_MATCH_OF = {"ipv6-icmp": "icmp6"}  # protocol -> its match, where the names differ
_RANKS = {
    **dict.fromkeys(("tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmp6"), 0),
    "multiport": 1,
    "mark": 2,
    "connmark": 3,
    "conntrack": 4,
    "physdev": 5,
    "set": 6,
    "hashlimit": 8,
    "limit": 8,
    "comment": 9,
}
_STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
_STRINGS = ("--comment", "--nflog-prefix", "--log-prefix")  # quoted unless they are plain names
_UNITS = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))
_FULL = 0xFFFFFFFF


@dataclass(slots=True)
class _Option:
    """An option of a match or target: ``! --name value ...``."""

    name: str
    values: list[str] = field(default_factory=list)
    negated: bool = False

    @property
    def value(self) -> str:
        """Its first value, without quotes."""
        return _plain(self.values[0]) if self.values else ""

    def text(self) -> str:
        """The option as iptables-save prints it."""
        values = map(_quoted, map(_plain, self.values)) if self.name in _STRINGS else self.values
        words = [self.name, *values]
        return " ".join(["!", *words] if self.negated else words)


@dataclass(slots=True)
class _Part:
    """A match (``-m name``), the target (``-j name``) or what stands before both (no name)."""

    flag: str = ""
    name: str = ""
    options: list[_Option] = field(default_factory=list)

    def drop(self, name: str, value: str) -> None:
        """Forget an option that only says what is the default."""
        self.options = [o for o in self.options if o.name != name or o.value != value or o.negated]

    def sort(self, *names: str) -> None:
        """Put the options in the order of *names*, all others behind."""
        ranks = {name: rank for rank, name in enumerate(names)}
        self.options.sort(key=lambda option: ranks.get(option.name, len(ranks)))

    def text(self) -> str:
        """The part as iptables-save prints it."""
        words = [self.flag, self.name] if self.flag else []
        return " ".join([*words, *(option.text() for option in self.options)])


def canonical_rule(rule: str) -> str:
    """Return *rule* (without ``-A <chain>``) in its canonical form; equal forms mean equal rules."""
    return rule if _CANONICAL_ALREADY.fullmatch(rule) else rebuild(rule)


@lru_cache(maxsize=4096)
def rebuild(rule: str) -> str:
    """Return *rule* taken apart and put together in its canonical form."""
    header, matches, target = _parse(rule)
    for option in header.options:
        _canonical_header(option)
    header.options = [option for option in header.options if option.negated or not _matches_all(option)]
    header.sort(*_HEADER)
    for match in matches:
        _CANONICAL.get(match.name, _as_it_is)(match)
    kept = sorted(
        (match for match in matches if match.options or match.name not in _RANKS),
        key=lambda match: _RANKS.get(match.name, 7),
    )
    _CANONICAL.get(target.name, _as_it_is)(target)
    return " ".join(text for part in (header, *kept, target) if (text := part.text()))


def _parse(rule: str) -> tuple[_Part, list[_Part], _Part]:
    """Split *rule* into header, matches and target."""
    header, target = _Part(), _Part()
    matches: list[_Part] = []
    part, negated = header, False
    words = iter(_WORD.findall(rule))
    for word in words:
        flag = _LONG.get(word, word)
        if flag == "-m":
            part = _Part(flag, next(words, ""))
            matches.append(part)
        elif flag in ("-j", "-g"):
            part = target
            target.flag, target.name = flag, next(words, "")
        elif word == "!":
            negated = True
            continue
        elif flag in _HEADER:
            header.options.append(_Option(flag, [] if flag == "-f" else [next(words, "")], negated))
            part = header if flag == "-p" else part
        elif word.startswith("-"):
            if part is header and (name := _protocol_match(header)):  # "-p tcp --dport 80" loads the match by itself
                part = _Part("-m", name)
                matches.append(part)
            part.options.append(_Option(word, [], negated))
        elif part.options:
            part.options[-1].values.append(word)
        else:
            part.options.append(_Option(word))  # what this is nobody knows: it stays where it was
        negated = False
    return header, matches, target


def _protocol_match(header: _Part) -> str:
    name = next((_protocol(option.value) for option in header.options if option.name == "-p"), "")
    return _MATCH_OF.get(name, name)


# The parts, by name.


def _canonical_header(option: _Option) -> None:
    if option.name in ("-s", "-d"):
        option.values = [_prefix(option.value)]
    elif option.name == "-p":
        option.values = [_protocol(option.value)]


def _matches_all(option: _Option) -> bool:
    return (option.name in ("-s", "-d") and option.value.endswith("/0")) or (option.name, option.value) == ("-p", "0")


def _as_it_is(_part: _Part) -> None:
    """Nothing is known of it."""


def _ports(part: _Part) -> None:
    names = {"--source-port": "--sport", "--destination-port": "--dport"}
    for option in part.options:
        option.name = names.get(option.name, option.name)
        if option.name in ("--sport", "--dport"):
            option.values = [_range(option.value, 0, 65535)]
    part.options = [option for option in part.options if option.negated or option.value != "0:65535"]
    part.sort("--sport", "--dport")


def _icmp(part: _Part) -> None:
    for option in part.options:
        kind, slash, code = option.value.partition("/")
        if option.value == "255":
            option.values = ["any"]
        elif slash and code in ("", "0:255"):
            option.values = [kind]


def _conntrack(part: _Part) -> None:
    part.name = "conntrack"  # "state" is an older name of the same
    for option in part.options:
        if option.name in ("--ctstate", "--state"):
            option.name = "--ctstate"
            states = option.value.upper().split(",")
            option.values = [",".join(sorted(states, key=lambda s: _STATES.index(s) if s in _STATES else -1))]


def _mark(part: _Part) -> None:
    for option in part.options:
        if option.name == "--mark":
            value, mask = _masked(option.value)
            option.values = [_mark_text(value, mask)]


def _set_mark(part: _Part) -> None:
    """MARK and CONNMARK: the ways to set bits all mean ``(mark & ~mask) ^ value``."""
    for option in part.options:
        value, mask = _masked(option.value)
        if option.name == "--set-mark":
            mask |= value
        elif option.name == "--and-mark":
            value, mask = 0, ~value & _FULL
        elif option.name == "--or-mark":
            mask = value
        elif option.name == "--xor-mark":
            mask = 0
        elif option.name != "--set-xmark":
            continue
        option.name, option.values = "--set-xmark", [f"{value:#x}/{mask:#x}"]


def _physdev(part: _Part) -> None:
    part.sort("--physdev-in", "--physdev-is-in", "--physdev-out", "--physdev-is-out", "--physdev-is-bridged")


def _hashlimit(part: _Part) -> None:
    for option in part.options:
        option.name = "--hashlimit-upto" if option.name == "--hashlimit" else option.name
        if option.name in ("--hashlimit-upto", "--hashlimit-above"):
            option.values = [_rate(option.value, 1_000_000)]
    _default(part, "--hashlimit-burst", "5")
    # Sizes and times of the table are about memory, and are printed or not as the version likes.
    for name, value in (("gcinterval", "1000"), ("expire", "10000"), ("size", "0"), ("max", "0")):
        part.drop(f"--hashlimit-htable-{name}", value)
    part.sort("--hashlimit-upto", "--hashlimit-above", "--hashlimit-burst", "--hashlimit-mode", "--hashlimit-name")


def _limit(part: _Part) -> None:
    for option in part.options:
        if option.name == "--limit":
            option.values = [_rate(option.value, 10_000)]
    part.drop("--limit-burst", "5")
    part.sort("--limit", "--limit-burst")


def _nflog(part: _Part) -> None:
    part.drop("--nflog-group", "0")
    part.drop("--nflog-threshold", "1")
    part.sort("--nflog-prefix", "--nflog-group", "--nflog-size", "--nflog-threshold")


_CANONICAL: dict[str, Callable[[_Part], None]] = {
    **dict.fromkeys(("tcp", "udp", "sctp", "dccp", "udplite"), _ports),
    **dict.fromkeys(("icmp", "icmp6"), _icmp),
    **dict.fromkeys(("conntrack", "state"), _conntrack),
    **dict.fromkeys(("mark", "connmark"), _mark),
    **dict.fromkeys(("MARK", "CONNMARK"), _set_mark),
    "physdev": _physdev,
    "hashlimit": _hashlimit,
    "limit": _limit,
    "NFLOG": _nflog,
}


# Values.


def _plain(word: str) -> str:
    return _ESCAPED.sub(r"\1", word[1:-1]) if len(word) > 1 and word[0] == word[-1] == '"' else word


def _quoted(value: str) -> str:
    """Return *value* in quotes, as iptables-save prints comments and prefixes that are no plain names."""
    return value if _UNQUOTED.fullmatch(value) else '"' + re.sub(r"([\"\\'])", r"\\\1", value) + '"'


@lru_cache(maxsize=512)
def _protocol(name: str) -> str:
    """Return the name or number that the canonical form has for a protocol."""
    number = _NUMBERS.get(name.lower())
    if number is None and name.isdigit():
        number = int(name)
    if number is None:
        try:
            number = socket.getprotobyname(name)
        except OSError:
            return name
    return _NAMED.get(number, str(number))


def _prefix(text: str) -> str:
    if text.isascii() and text.endswith("/32") and ":" not in text:
        return text  # most of them
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return text


def _range(text: str, least: int, most: int) -> str:
    """Return a range of ports with both ends, or one number."""
    low, colon, high = text.partition(":")
    if not colon:
        return text
    low, high = low or str(least), high or str(most)
    return low if low == high else f"{low}:{high}"


def _masked(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    try:
        return int(value, 0), int(mask, 0) if mask else _FULL
    except ValueError:
        return 0, 0  # iptables refuses it


def _mark_text(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == _FULL else f"{value:#x}/{mask:#x}"


def _rate(text: str, scale: int) -> str:
    """Return ``N/unit`` as it is printed after it was kept as the time from packet to packet in 1/*scale* s."""
    number, _, unit = text.partition("/")
    seconds = next((seconds for name, seconds in _UNITS if unit and unit in (name, f"{name}ond", f"{name}ute")), 0)
    period = scale * seconds // int(number) if number.isdigit() and int(number) else 0
    if not period:
        return text
    printed = _UNITS[0]
    for finer in _UNITS[1:]:
        whole, rest = divmod(finer[1] * scale, period)
        if whole < max(rest, 1):
            break
        printed = finer
    return f"{printed[1] * scale // period}/{printed[0]}"


def _default(part: _Part, name: str, value: str) -> None:
    if all(option.name != name for option in part.options):
        part.options.append(_Option(name, [value]))
