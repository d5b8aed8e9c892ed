# SPDX-License-Identifier: Apache-2.0
"""What commands can be run on: a simulated host, or the router beyond the external network."""

from __future__ import annotations

from typing import Protocol


class Machine(Protocol):
    """Something with namespaces of its own."""

    @property
    def name(self) -> str:
        """What it is called, and what its namespaces belong to."""

    def environment(self) -> dict[str, str]:
        """Return the variables that point commands at this machine and at the sandbox's store."""

    def inner_environment(self) -> dict[str, str]:
        """Return the variables of commands that run on it."""

    def instances(self) -> list[str]:
        """Return the names of the instances that are on it."""
