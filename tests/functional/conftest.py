# SPDX-License-Identifier: Apache-2.0
"""Sandboxes for functional tests.  They need root and Open vSwitch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from agent.sandbox.sandbox import Sandbox
from tests.functional.lab import Lab, unique_name

# What streams lose over failovers is measured by "make soak" for now: now and then a gateway that has come back is not
# reached for seconds (docs/routers.md, "Limits"), and a test that fails now and then tells nobody anything.
collect_ignore = [] if "HOSTPLANE_TEST_FAILOVERS" in os.environ else ["test_router_failover.py"]


@pytest.fixture(scope="module")
def new_lab() -> Iterator[Callable[..., Lab]]:
    """Return a function that makes a sandbox; all are taken down after the module."""
    with contextlib.ExitStack() as ends:

        def make(hosts: int = 2, *, agents: bool = True, external: bool = False) -> Lab:
            lab = Lab(Sandbox.create(unique_name(), hosts, agents=agents, external=external))
            ends.callback(lab.close)
            return lab

        yield make
