# SPDX-License-Identifier: Apache-2.0
"""Ports of ``br-int`` for plugged devices: one ``ovs-vsctl`` transaction, however many there are.

``external_ids`` are those that Nova and os-vif write; by ``iface-id`` the agent
knows which port an interface is.  ``hostplane-plug`` says that it was us, even when
the device itself is gone (it goes with its namespace).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.command import CommandRunner, Runner
from agent.core.errors import ApplyError, CommandError
from agent.core.naming import INTEGRATION_BRIDGE

MARK = "hostplane-plug"
TIMEOUT = 10  # seconds, for the database and for ovs-vswitchd to take the change up
_GRACE = 2.0  # ovs-vsctl ends itself first
_SIGALRM = 14


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port of ``br-int`` to be: the device, the port's id and MAC address."""

    device: str
    port_id: str
    mac: str


@dataclass(frozen=True, slots=True)
class SwitchInterface:
    """An interface of the switch that names a port; ``ours`` if ``hostplane plug`` made it."""

    device: str
    port_id: str
    ours: bool
    error: str | None


class Switch:
    """The local Open vSwitch.

    *database* is its address (``unix:...``); None leaves the choice to ``ovs-vsctl``,
    which looks into ``OVS_RUNDIR``.  Every method raises ApplyError.
    """

    def __init__(self, database: str | None = None, run: Runner | None = None) -> None:
        self._database = database
        self._run = run or CommandRunner()

    def interfaces(self) -> tuple[SwitchInterface, ...]:
        """Return all interfaces that name a port."""
        output = self._vsctl("--format=json", "--columns=name,external_ids,error", "list", "Interface")
        found = []
        for name, external_ids, error in json.loads(output)["data"]:
            ids: dict[str, str] = dict(external_ids[1])
            if "iface-id" in ids:
                text = error if isinstance(error, str) else None  # OVSDB writes none as an empty set
                found.append(SwitchInterface(name, ids["iface-id"], ids.get(MARK) == ids["iface-id"], text))
        return tuple(found)

    def add(self, ports: Iterable[SwitchPort], wait: bool = True) -> None:
        """Add *ports* to ``br-int``; what is there already only gets its marks again.

        With *wait*, return when ``ovs-vswitchd`` has taken them up.
        """
        words: list[str] = []
        for port in ports:
            words += ["--", "--may-exist", "add-port", INTEGRATION_BRIDGE, port.device, "--", "set", "Interface"]
            words += [port.device, *(f"external_ids:{key}={value}" for key, value in _marks(port).items())]
        if words:
            self._vsctl(*([] if wait else ["--no-wait"]), *words[1:])

    def delete(self, devices: Sequence[str], wait: bool = True) -> None:
        """Take *devices* off ``br-int``; those that are not there are no error."""
        words: list[str] = []
        for device in devices:
            words += ["--", "--if-exists", "del-port", INTEGRATION_BRIDGE, device]
        if words:
            self._vsctl(*([] if wait else ["--no-wait"]), *words[1:])

    def _vsctl(self, *words: str) -> str:
        database = [f"--db={self._database}"] if self._database else []
        argv = ("ovs-vsctl", f"--timeout={TIMEOUT}", "--no-syslog", *database, *words)
        try:
            return self._run(argv, timeout=TIMEOUT + _GRACE)
        except CommandError as err:
            # With hundreds of ports in one command its text is of no use to anybody.
            raise ApplyError(f"Open vSwitch: {_reason(err)}") from err


def _marks(port: SwitchPort) -> Mapping[str, str]:
    return {"iface-id": port.port_id, "attached-mac": port.mac, "iface-status": "active", MARK: port.port_id}


def _reason(err: CommandError) -> str:
    if err.returncode in (None, -_SIGALRM):
        return f"no answer within {TIMEOUT} s; are ovsdb-server and ovs-vswitchd running?"
    lines = [line.removeprefix("ovs-vsctl: ") for line in err.stderr.splitlines() if line.startswith("ovs-vsctl: ")]
    return "; ".join(lines) or err.stderr.strip() or f"ovs-vsctl ended with status {err.returncode}"
