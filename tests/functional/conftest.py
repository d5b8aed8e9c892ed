# SPDX-License-Identifier: Apache-2.0
"""Sandboxes for functional tests.  They need root and Open vSwitch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from agent.sandbox.sandbox import Sandbox
from tests.functional.lab import Lab, unique_name


@pytest.fixture(scope="module")
def new_lab() -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a sandbox; all are taken down after the module."""
    with contextlib.ExitStack() as ends:

        def make(hosts: int = 2, *, agents: bool = True, external: bool = False) -> Lab:
            lab = Lab(Sandbox.create(unique_name(), hosts, agents=agents, external=external))
            ends.callback(lab.close)
            return lab

        yield make
