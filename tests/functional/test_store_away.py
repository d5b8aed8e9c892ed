# SPDX-License-Identifier: Apache-2.0
"""What a thousand pings a second notice of a store that is away: apart from other restarts, because it takes long."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.functional.hitless import TWO_HOSTS, stream_over, wait_converged
from tests.functional.lab import Lab

AWAY = float(os.environ.get("HOSTPLANE_TEST_STORE_AWAY", "30"))  # seconds that the store is away


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(2)
    lab.bring_up(TWO_HOSTS)
    lab.assert_connection("vm1", "10.0.0.11")
    return lab


def test_nothing_is_lost_while_the_store_is_away_even_if_an_agent_restarts_meanwhile(lab: Lab) -> None:
    def outage() -> None:
        away = time.monotonic()
        lab.sandbox.store.stop(kill=True)
        lab.sandbox.restart("host1", "agent")
        lab.sandbox.restart("host2", "agent", kill=True)
        time.sleep(max(0.0, away + AWAY - time.monotonic()))
        lab.sandbox.store.start()
        for host in ("host1", "host2"):
            wait_converged(lab, host)

    stream_over(lab, outage, f"store away for {AWAY:g} s")
