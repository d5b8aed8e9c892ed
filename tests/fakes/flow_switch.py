# SPDX-License-Identifier: Apache-2.0
"""A switch that understands what the flows driver says to ``ovs-ofctl``.

Stands in for the program through the ``Runner`` protocol: it executes bundles of
``add`` and ``delete_strict`` and prints dumps selected by cookie, so that the
driver itself is tested and not a copy of it.  Anything else fails loudly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from agent.core.errors import CommandError
from tests.fakes.drivers import Fuse

_ADD = re.compile(r"add cookie=(0x[0-9a-f]{16}),(table=\d+,priority=\d+(?:,[^ ]+?)?),actions=([^ ]+)")
_DELETE = re.compile(r"delete_strict cookie=(0x[0-9a-f]{16})/(0x[0-9a-f]{16}),(table=\d+,priority=\d+(?:,[^ ]+)?)")
_FILTER = re.compile(r"cookie=(0x[0-9a-f]+)/(0x[0-9a-f]+)")


class Flow(NamedTuple):
    """What a flow holds besides its key."""

    cookie: int
    actions: str


class FakeFlowSwitch:
    """The flow tables of one bridge, by key ``table=N,priority=P,<match>``.

    ``refuse`` holds actions that the switch does not accept; ``unparsable`` words
    that ``ovs-ofctl`` itself does not.  ``hang`` lets the next bundle run out of
    time, after it was taken or ("before") without effect.  ``modifications`` counts
    flows that were written.
    """

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.refuse: set[str] = set()
        self.unparsable: set[str] = set()
        self.away = False
        self.hang = ""
        self.fuse: Fuse | None = None
        self.modifications = 0
        self.processes = 0

    def __call__(
        self,
        argv: tuple[str, ...],
        *,
        stdin: str | bytes = b"",
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        self.processes += 1
        if self.away:
            raise CommandError(argv, 1, "ovs-ofctl: connecting to unix:br-int.mgmt (Connection refused)")
        match argv:
            case ("ovs-ofctl", "-O", "OpenFlow14", "--no-names", "--bundle", "add-flows", _, "-"):
                self._bundle(argv, stdin.decode() if isinstance(stdin, bytes) else stdin)
                return ""
            case ("ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", _, selected):
                return self._dump(selected)
            case _:
                raise AssertionError(f"unknown command: {argv}")

    def add(self, key: str, actions: str, cookie: int = 0) -> None:
        """Install a flow by hand."""
        self.flows[key] = Flow(cookie, actions)

    def restart(self) -> None:
        """Lose all flows, as ``ovs-vswitchd`` does."""
        self.flows.clear()

    def dump(self) -> str:
        """Return all flows as sorted text."""
        return "\n".join(
            sorted(f"0x{flow.cookie:016x} {key} actions={flow.actions}" for key, flow in self.flows.items())
        )

    def _bundle(self, argv: tuple[str, ...], script: str) -> None:
        if self.fuse is not None:
            self.fuse.burn()
        if self.hang == "before":
            self.hang = ""
            raise CommandError(argv, None, "no end after 10 s; ")
        flows = dict(self.flows)  # a bundle is taken as a whole or not at all
        lines = script.splitlines()
        for number, line in enumerate(lines, 1):
            wrong = next((word for word in self.unparsable if word in line), None)
            if wrong is not None:
                raise CommandError(argv, 1, f"ovs-ofctl: -:{number}: {wrong}: unknown keyword\n")
            self._execute(argv, flows, line)
        self.flows = flows
        self.modifications += len(lines)
        if self.fuse is not None:
            self.fuse.burn()
        if self.hang:
            self.hang = ""
            raise CommandError(argv, None, "no end after 10 s; ")

    def _execute(self, argv: tuple[str, ...], flows: dict[str, Flow], line: str) -> None:
        if added := _ADD.fullmatch(line):
            cookie, key, actions = added.groups()
            if actions in self.refuse:
                message = f"ADD {key} cookie:{int(cookie, 16):#x} actions={actions}"
                raise CommandError(argv, 1, f"Error OFPBAC_BAD_TYPE for: OFPT_FLOW_MOD (OF1.4) (xid=0x7): {message}\n")
            flows[key] = Flow(int(cookie, 16), actions)
        elif deleted := _DELETE.fullmatch(line):
            cookie, mask, key = deleted.groups()
            if key in flows and flows[key].cookie & int(mask, 16) == int(cookie, 16):
                del flows[key]
        else:
            raise AssertionError(f"unknown line: {line}")

    def _dump(self, selected: str) -> str:
        found = _FILTER.fullmatch(selected)
        if found is None:
            raise AssertionError(f"unknown filter: {selected}")
        cookie, mask = (int(number, 16) for number in found.groups())
        return "".join(f"{_printed(key, flow)}\n" for key, flow in self.flows.items() if flow.cookie & mask == cookie)


def _printed(key: str, flow: Flow) -> str:
    """Return a flow as ``ovs-ofctl dump-flows --no-stats --no-names`` prints it."""
    table, match = key.split(",", 1)
    head = f" cookie={flow.cookie:#x}," + (f" {table}," if table != "table=0" else "")
    return f"{head} {match} actions={flow.actions}"
