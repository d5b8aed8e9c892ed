# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name.  A module of this folder with ``NAME`` and ``run(options)`` each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from bench.figures import Result
from bench.options import Options

# Imported when they run: a quick look at one need not load the others' libraries.
_MODULES: Mapping[str, str] = {
    "wiring": "bench.wiring",
    "one-port": "bench.one_port",
    "restart": "bench.restart",
    "memory": "bench.memory",
    "filters": "bench.filters",
    "filter-cost": "bench.filter_cost",
    "dhcp": "bench.dhcp",
    "metadata": "bench.metadata",
    "floating-ips": "bench.floating_ips",
    "routers": "bench.routers",
    "routed-path": "bench.routed_path",
    "fastpath": "bench.fastpath",
    "classifier": "bench.classifier",
}


def names() -> Sequence[str]:
    """Return all names, in the order in which they run."""
    return tuple(_MODULES)


def load(name: str) -> Callable[[Options], Result]:
    """Return what measures *name*."""
    return cast(Callable[[Options], Result], importlib.import_module(_MODULES[name]).run)
