# SPDX-License-Identifier: Apache-2.0
"""What a process uses, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_CPU_FIELDS = slice(11, 15)  # /proc/PID/stat utime, stime, cutime, cstime, counted from the state


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes.

    ``rss`` is resident, ``pss`` its share of what is resident, ``own`` what it has
    allocated itself (no page of a file), ``peak`` the highest that rss ever was.
    """

    rss: int
    pss: int
    own: int
    peak: int


def memory(pid: int) -> Memory:
    """Return the memory of a process."""
    rollup = _kibibytes(Path(f"/proc/{pid}/smaps_rollup"))
    peak = _kibibytes(Path(f"/proc/{pid}/status"))["VmHWM"]
    return Memory(rollup["Rss"], rollup["Pss"], rollup["Anonymous"], peak)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of those of its children that have ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[_CPU_FIELDS])) / os.sysconf("SC_CLK_TCK")


def companions(pid: int) -> set[int]:
    """Return all processes that share the mount namespace of *pid*, itself included."""
    ours = _mount_namespace(str(pid))
    pids = (each for each in os.listdir("/proc") if each.isdigit())  # noqa: PTH208
    return {int(each) for each in pids if _mount_namespace(each) == ours}


def _mount_namespace(pid: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115
    except OSError:
        return None  # it has ended, or is about to


def _kibibytes(path: Path) -> dict[str, int]:
    """Return the lines ``Name:   123 kB`` of *path* in bytes."""
    values = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            values[words[0].rstrip(":")] = int(words[1]) * _KIB
    return values
