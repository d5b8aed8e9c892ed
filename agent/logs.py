# SPDX-License-Identifier: Apache-2.0
"""Logs: one record is one line on standard error, one line is one change of state.

Under systemd each line starts with its priority as ``sd-daemon(3)`` describes and
carries no time, because the journal adds both; elsewhere it starts with time and level.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from agent.core.errors import InputError
from agent.core.model import PortId, Router, RouterId
from agent.core.plan import ItemRef
from agent.core.report import ObjectStatus, PortState, RouterState

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Names come from the store, messages from other programs: neither may forge a line or steer a terminal.
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: " | ", 9: " "}


def setup(level: str, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Send all records of *level* and above to *stream* (default: standard error).

    Raises InputError for a level that there is not.
    """
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalFormatter() if _is_journal(stream, environ) else PlainFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Log *level* and above from now on.  Raises InputError for a level that there is not."""
    if level not in LEVELS:
        raise InputError(f"log level: {level!r} is not one of {', '.join(LEVELS)}")
    logging.getLogger().setLevel(LEVELS[level])


def get_level() -> str:
    """Return the level that is in force."""
    effective = logging.getLogger().getEffectiveLevel()
    return next((name for name, number in LEVELS.items() if number >= effective), "error")


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return self.prefix(record) + super().format(record).translate(_UNPRINTABLE)

    def prefix(self, record: logging.LogRecord) -> str:
        """Return what stands in front of the record's line."""
        raise NotImplementedError


class JournalFormatter(_OneLineFormatter):
    """``<priority>logger: message``."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def prefix(self, record: logging.LogRecord) -> str:
        """Return the priority as in syslog(3): 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
        limits = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
        return f"<{next((number for level, number in limits if record.levelno >= level), 7)}>"


class PlainFormatter(_OneLineFormatter):
    """``2026-01-31T12:00:00.123Z INFO logger: message``."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def prefix(self, record: logging.LogRecord) -> str:
        """Return the time in UTC."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z "


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether *stream* goes to the journal: the variable alone also reaches children with other streams."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class StateChangeLog:
    """Logs one line when an object's state changes, none while it stays or is merely tried again.

    Each method is given everything of its kind, each pass; what is not in it any more
    has become *done* or is gone.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._items: Mapping[ItemRef, ObjectStatus] = {}
        self._waiting: set[ItemRef] = set()  # those of them that have only ever waited for others
        self._ports: Mapping[PortId, PortState] = {}
        self._routers: Mapping[RouterId, RouterState] = {}
        self._facts: dict[str, str] = {}

    def items(self, unfinished: Mapping[ItemRef, ObjectStatus], revision: int) -> None:
        """Compare the items that are not done with those of the last call.

        What has only ever waited for another item is told at level debug: one failure can hold up hundreds of
        them, and has a line itself.
        """
        before, self._items = self._items, dict(unfinished)
        were_waiting, self._waiting = self._waiting, set()
        for ref, status in unfinished.items():
            old = before.get(ref)
            if status.waits_for is not None and (old is None or ref in were_waiting):
                self._waiting.add(ref)
            if old is not None and old.state is status.state:
                continue
            was = old.state.value if old is not None else "done"
            self._log.log(
                logging.DEBUG if ref in self._waiting else logging.WARNING,
                "%s item %s: %s -> %s at revision %d: %s",
                ref.driver,
                ref.key,
                was,
                status.state.value,
                revision,
                status.message,
            )
        for ref, old in before.items():
            if ref not in unfinished:
                self._log.log(
                    logging.DEBUG if ref in were_waiting else logging.INFO,
                    "%s item %s: %s -> done at revision %d after %d attempts",
                    ref.driver,
                    ref.key,
                    old.state.value,
                    revision,
                    old.attempts,
                )

    def ports(self, ports: Mapping[PortId, PortState], revision: int) -> None:
        """Compare the ports of this host with those of the last call."""
        before, self._ports = self._ports, ports
        if ports is before:
            return
        for port_id, port in ports.items():
            old = before.get(port_id)
            if port is old or (old is not None and (old.up, old.reason) == (port.up, port.reason)):
                continue
            state, was = _port_text(port), "new" if old is None else _port_text(old)
            self._log.info("port %s (%s): %s -> %s at revision %d", port_id, port.name, was, state, revision)
        for port_id, old in before.items():
            if port_id not in ports:
                self._log.info("port %s (%s): gone at revision %d", port_id, old.name, revision)

    def routers(self, routers: Mapping[RouterId, RouterState], names: Mapping[RouterId, Router], revision: int) -> None:
        """Compare the routers that this host needs with those of the last call; *names* has those that are there."""
        before, self._routers = self._routers, routers
        for router_id, router in routers.items():
            old = before.get(router_id)
            if old is not None and (old.active, old.ready) == (router.active, router.ready):
                continue
            was = "new" if old is None else _router_text(old)
            name, state = names[router_id].name if router_id in names else "", _router_text(router)
            self._log.info("router %s (%s): %s -> %s at revision %d", router_id, name, was, state, revision)
        for router_id in before.keys() - routers.keys():
            self._log.info("router %s: gone at revision %d", router_id, revision)

    def fact(self, name: str, state: str, text: str = "", revision: int | None = None, *, good: bool = True) -> None:
        """Note the state of the one thing called *name* (``store``, ``switch``, ``hold``)."""
        old = self._facts.get(name)
        self._facts[name] = state
        if old is not None and old == state:
            return
        was = f"{old} -> " if old is not None else ""
        at = f" at revision {revision}" if revision is not None else ""
        self._log.log(
            logging.INFO if good else logging.WARNING, "%s: %s%s%s%s", name, was, state, at, text and f": {text}"
        )


def _port_text(port: PortState) -> str:
    return ("up" if port.up else "down") + (f" ({port.reason})" if port.reason else "")


def _router_text(router: RouterState) -> str:
    state = ("gateway here" if router.active else "no gateway here") + ("" if router.ready else ", not ready")
    return state + (f" ({router.reason})" if router.reason else "")
