# SPDX-License-Identifier: Apache-2.0
"""The packets that security groups log: a JSON object a line.

The rules of the filters hand them to an NFLOG group, at most as many a second as the
security group says; a thread turns them into lines.  While no group logs there is
neither thread nor socket.  What is not read in time is lost and counted, never waited
for: packets pass or are dropped without regard to their log.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from agent.core import naming
from agent.core.errors import Actor, Problem
from agent.core.model import Direction, HostName, HostSnapshot
from agent.core.packet_names import PacketNames, any_logs, packet_names
from agent.core.protocols import protocol_name
from agent.drivers.nflog import LogSocket, Packet

LOG = logging.getLogger(__name__)
PACKETS = logging.getLogger("agent.packets")

RETRY_SECONDS = 2.0  # after the group could not be had
FILE_MODE = 0o640
_FAMILIES: dict[int, str] = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}

Write: TypeAlias = Callable[[list[str]], None]


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """Lines written, and packets that were to be logged and got lost, since the daemon started."""

    logged: int = 0
    lost: int = 0


class PacketLog:
    """Writes to *file*, or to the logger ``agent.packets`` if there is none.

    ``follow`` and ``stop`` are for one thread, the rest for any.
    """

    def __init__(self, host: HostName, file: Path | None = None) -> None:
        self._host = host
        self._write: Write = _to_logger if file is None else _FileSink(file)
        self._snapshot: HostSnapshot | None = None
        self._names = PacketNames()
        self._reader: _Reader | None = None
        self._counts = PacketCounts()
        self.problem: str | None = None
        PACKETS.setLevel(logging.INFO)  # whatever the daemon itself is to say

    def follow(self, snapshot: HostSnapshot) -> None:
        """Log what the groups of *snapshot* want logged; returns at once, and at no cost if nothing changed."""
        last, self._snapshot = self._snapshot, snapshot
        if (
            last is not None
            and last.security_groups is snapshot.security_groups
            and (self._reader is None or last.ports is snapshot.ports)
        ):
            return
        if not any_logs(snapshot):
            self.stop()
            return
        self._names = packet_names(snapshot)
        if self._reader is None:
            self._reader = _Reader(self._take, self._tell)

    def stop(self) -> None:
        """End the thread, if there is one."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
            self.problem = None

    def counts(self) -> PacketCounts:
        """Return what has been logged and lost."""
        return self._counts

    def is_reading(self) -> bool:
        """Tell whether packets are being read now."""
        return self._reader is not None and self._reader.reading.is_set()

    def problems(self) -> tuple[Problem, ...]:
        """Return why packets cannot be logged."""
        text = self.problem
        return () if text is None else (Problem("host", "packet_log", text, Actor.OPERATOR),)

    # On the reader's thread.

    def _take(self, packets: list[Packet], lost: int) -> None:
        names, device, now = self._names, cache(_device), time.time()
        found = (self._line(packet, names, device, now) for packet in packets)
        lines = [line for line in found if line is not None]
        try:
            if lines:
                self._write(lines)
        except OSError as err:
            lost += len(lines)
            lines = []
            self._tell(f"logged packets cannot be written: {err.filename or ''}: {err.strerror}")
        else:
            self._tell(None)
        before = self._counts
        self._counts = PacketCounts(before.logged + len(lines), before.lost + lost)

    def _tell(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            LOG.warning("%s", problem)
        self.problem = problem

    def _line(self, packet: Packet, names: PacketNames, device: Callable[[int], str], now: float) -> str | None:
        """Return the line for *packet*, None if it is not from a rule of ours."""
        rule = names.rules.get(packet.prefix)
        if rule is None:
            return None  # of a group that logs no more, or of somebody else's rule
        port, direction = _port(packet, names, device)
        flow = packet.flow
        when = packet.time if packet.time is not None else now
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when * 1000) % 1000:03d}Z",
            "host": self._host,
            "port_id": None if port is None else port[0],
            "port": None if port is None else port[1],
            "direction": direction,
            "verdict": "accepted" if rule.accepted else "dropped",
            "group_id": rule.group,
            "group": rule.group_name,
            "rule_id": rule.rule,
            "family": _FAMILIES.get(packet.family),
            "protocol": None if flow is None else protocol_name(flow.protocol),
            "source": None if flow is None else flow.source,
            "destination": None if flow is None else flow.destination,
            "source_port": None if flow is None else flow.source_port,
            "destination_port": None if flow is None else flow.destination_port,
            "icmp_type": None if flow is None else flow.icmp_type,
            "icmp_code": None if flow is None else flow.icmp_code,
        }
        return json.dumps(entry, separators=(",", ":"))


def _port(
    packet: Packet, names: PacketNames, device: Callable[[int], str]
) -> tuple[tuple[str, str] | None, Direction | None]:
    """Return id and name of the packet's port, and its direction."""
    port = names.ports.get(device(packet.bridge))
    if port is None:
        return None, None
    return port, Direction.EGRESS if device(packet.physical_in) == naming.tap_name(port[0]) else Direction.INGRESS


def _device(index: int) -> str:
    """Return a device's name, "" if it is gone."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


class _Reader:
    """The thread: reads until it is stopped, and opens the socket again after a failure."""

    def __init__(self, take: Callable[[list[Packet], int], None], tell: Callable[[str | None], None]) -> None:
        self._take = take
        self._tell = tell
        self._stop_read, self._stop_write = os.pipe()
        self._next = 0  # sequence number
        self.reading = threading.Event()
        self._thread = threading.Thread(target=self._run, name="packet-log", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        os.write(self._stop_write, b"x")
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not self._stopped(0):
                try:
                    self._serve()
                except OSError as err:
                    self._tell(_refusal(err))
                if self._stopped(RETRY_SECONDS):
                    break
        finally:
            os.close(self._stop_read)
            os.close(self._stop_write)

    def _serve(self) -> None:
        source = LogSocket(naming.LOG_GROUP)
        self._next = 0  # the kernel counts from the binding on
        try:
            self._tell(None)
            self.reading.set()
            if not source.tells_flows:
                LOG.info("this kernel does not tell addresses of logged packets (CONFIG_NETFILTER_NETLINK_GLUE_CT)")
            while not self._stopped(None, source.socket.fileno()):
                self._read(source)
        finally:
            self.reading.clear()
            source.close()

    def _read(self, source: LogSocket) -> None:
        try:
            packets = source.read()
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
            return  # how many were lost is told by the next number
        lost = 0
        for packet in packets:
            if packet.sequence is not None:
                lost += (packet.sequence - self._next) % (1 << 32)
                self._next = (packet.sequence + 1) % (1 << 32)
        if packets:
            self._take(packets, lost)

    def _stopped(self, wait: float | None, *others: int) -> bool:
        """Wait up to *wait* seconds (None: for ever) for one of *others* or the end; return whether it is the end."""
        poller = select.poll()
        for descriptor in (self._stop_read, *others):
            poller.register(descriptor, select.POLLIN)
        ready = poller.poll(None if wait is None else wait * 1000)
        return any(descriptor == self._stop_read for descriptor, _ in ready)


def _refusal(err: OSError) -> str:
    why = err.strerror or str(err)
    if err.errno in (errno.EBUSY, errno.EPERM):
        why = f"{why}: another program has it, or CAP_NET_ADMIN is missing"
    return f"packets cannot be logged: NFLOG group {naming.LOG_GROUP}: {why}"


def _to_logger(lines: list[str]) -> None:
    for line in lines:
        PACKETS.info("%s", line)


class _FileSink:
    """Appends to a file, opened anew for each batch: it may be renamed (logrotate) at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, lines: list[str]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, FILE_MODE)
        try:
            os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
        finally:
            os.close(descriptor)
