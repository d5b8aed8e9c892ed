# SPDX-License-Identifier: Apache-2.0
"""IP sets in memory: executes what is given to ``ipset restore`` and answers like the kernel.

What the real one does to the buffer when a line is refused (lines before it may be
lost) is done here, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from agent.command import DEFAULT_TIMEOUT
from agent.core.errors import CommandError
from agent.drivers.ipset_netlink import MAXELEM, SetHeader
from tests.fakes.drivers import Fuse


class _RefusedError(Exception):
    """A line that ipset would refuse."""


@dataclass
class FakeSet:
    """A set: how it was made, its elements (element -> "" or ``nomatch``), and how many rules refer to it."""

    type: str = "hash:net"
    family: str = "inet"
    maxelem: int = MAXELEM
    elements: dict[str, str] = field(default_factory=dict)
    references: int = 0

    def header(self) -> SetHeader:
        return SetHeader(self.type, self.family, () if self.maxelem == MAXELEM else (f"maxelem {self.maxelem}",))


class FakeIpsets:
    """The sets of one namespace, their reader and their ``ipset`` program at once."""

    def __init__(self, sets: Mapping[str, FakeSet] | None = None) -> None:
        self.sets = dict(sets or {})
        self.scripts: list[str] = []
        self.missing = False  # whether the program is not installed
        self.fuse: Fuse | None = None  # burns with each line

    def dump(self) -> str:
        """Return all sets as sorted text."""
        lines = []
        for name, one in self.sets.items():
            lines.append(f"create {name} {one.header()}")
            lines += [f"add {name} {element} {flag}".rstrip() for element, flag in one.elements.items()]
        return "\n".join(sorted(lines))

    # What SetReader promises.

    def headers(self, names: Collection[str] | None = None) -> dict[str, SetHeader]:
        return {name: one.header() for name, one in self.sets.items() if names is None or name in names}

    def elements(self, name: str) -> dict[str, str] | None:
        return dict(self.sets[name].elements) if name in self.sets else None

    def contained(self, name: str, elements: Collection[str]) -> set[str]:
        present = self.sets[name].elements if name in self.sets else {}
        return {element for element in elements if present.get(element) == ""}

    # The program.

    def run(
        self,
        argv: tuple[str, ...],
        *,
        stdin: str | bytes = b"",
        timeout: float = DEFAULT_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> str:
        if self.missing:
            raise CommandError(argv, 127, "ipset is not installed")
        assert argv == ("ipset", "restore", "-exist"), argv
        text = stdin if isinstance(stdin, str) else stdin.decode()
        self.scripts.append(text)
        saved = {name: (one, dict(one.elements)) for name, one in self.sets.items()}
        buffered = False
        for number, line in enumerate(text.splitlines(), 1):
            if self.fuse is not None:
                self.fuse.burn()
            verb, *words = line.split()
            try:
                getattr(self, f"_{verb}")(*words)
            except _RefusedError as err:
                if buffered:  # adds and deletes that were not yet sent are lost
                    for name, (one, elements) in saved.items():
                        one.elements = elements if self.sets.get(name) is one else one.elements
                raise CommandError(argv, 1, f"ipset v7.17: Error in line {number}: {err}\n") from None
            buffered = verb in ("add", "del")
            if not buffered:
                saved = {name: (one, dict(one.elements)) for name, one in self.sets.items()}
        return ""

    def _create(self, name: str, kind: str, word: str, family: str, *options: str) -> None:
        assert word == "family", word
        maxelem = int(options[1]) if options else 65536
        there = self.sets.get(name)
        if there is None:
            self.sets[name] = FakeSet(kind, family, maxelem)
        elif (there.type, there.family, there.maxelem) != (kind, family, maxelem):
            raise _RefusedError("Set cannot be created: set with the same name already exists")

    def _destroy(self, name: str) -> None:
        if self._get(name).references:
            raise _RefusedError("Set cannot be destroyed: it is in use by a kernel component")
        del self.sets[name]

    def _flush(self, name: str) -> None:
        self._get(name).elements.clear()

    def _swap(self, one: str, other: str) -> None:
        first, second = self._get(one), self._get(other)
        if (first.type, first.family) != (second.type, second.family):
            raise _RefusedError("The sets cannot be swapped: their type does not match")
        first.references, second.references = second.references, first.references
        self.sets[one], self.sets[other] = second, first

    def _add(self, name: str, element: str) -> None:
        there = self._get(name)
        wanted = 6 if there.family == "inet6" else 4
        if ip_network(element).version != wanted:
            raise _RefusedError(f"Syntax error: cannot parse {element}: resolving to IPv{wanted} address failed")
        if element not in there.elements and len(there.elements) >= there.maxelem:
            raise _RefusedError("Hash is full, cannot add more elements")
        there.elements[element] = ""

    def _del(self, name: str, element: str) -> None:
        self._get(name).elements.pop(element, None)

    def _get(self, name: str) -> FakeSet:
        if name not in self.sets:
            raise _RefusedError("The set with the given name does not exist")
        return self.sets[name]
