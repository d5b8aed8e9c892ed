# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

from __future__ import annotations

import os
import sys
import uuid

import pytest
from hypothesis import HealthCheck, settings

# The ovs package imports eventlet where it can, and eventlet must stay out of the
# daemon: tests see the modules as the daemon's and the command's entry points do.
sys.modules["eventlet"] = None  # type: ignore[assignment]

# "check" is deterministic, so that a failure is the change's and not the dice's; "soak"
# searches.  With 60 examples the properties go through the same branches as with 100, but
# for 20 of 2,600.  Deadlines measure the machine, not the code.
settings.register_profile(
    "check", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", parent=settings.get_profile("check"), derandomize=False, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "check"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the expected files anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Tell whether golden tests shall write what they see instead of comparing it."""
    return bool(request.config.getoption("--update-golden"))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case with a random id in it the same in each of the processes that share the tests out."""
    try:
        return "uuid" if isinstance(val, str) and uuid.UUID(val) else None
    except ValueError:
        return None
