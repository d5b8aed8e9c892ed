# SPDX-License-Identifier: Apache-2.0
"""What a run of the benchmarks is asked for."""

from __future__ import annotations

from dataclasses import dataclass

PORTS = (1, 10, 100, 400)
QUICK_PORTS = (1, 10)


@dataclass(frozen=True, slots=True)
class Options:
    """``quick`` is for a look whether the benchmark works; ``ports`` are numbers of ports, rising."""

    ports: tuple[int, ...] = PORTS
    quick: bool = False

    @property
    def most(self) -> int:
        """The number of ports for what is measured with one number only."""
        return self.ports[-1]
