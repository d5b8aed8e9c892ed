# SPDX-License-Identifier: Apache-2.0
"""How full the kernel's connection table is.

The table is one for all zones of a network namespace: a tenant that fills it keeps the
others from opening connections, so operators want to know before it is full
(Documentation/networking/nf_conntrack-sysctl.rst).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/proc/sys/net/netfilter")


class ConntrackUsage(NamedTuple):
    """Connections that are there, and how many may be there."""

    entries: int
    limit: int


def conntrack_usage(folder: Path = FOLDER) -> ConntrackUsage:
    """Return the usage of this process's namespace; zeros where the kernel tracks no connections."""
    try:
        entries, limit = (int((folder / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    except (OSError, ValueError):
        return ConntrackUsage(0, 0)
    return ConntrackUsage(entries, limit)
