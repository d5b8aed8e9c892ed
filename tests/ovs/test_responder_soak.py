# SPDX-License-Identifier: Apache-2.0
"""Some seconds of what ``make soak`` does to a real responder for ten minutes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.sandbox.host import agent_environment

SECONDS = 6


@pytest.mark.alone
def test_while_fifty_instances_attack_in_every_way_the_one_that_means_well_is_answered():
    argv = [sys.executable, "-m", "tests.fuzz.responder", "--seconds", str(SECONDS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=dict(agent_environment()))

    assert done.returncode == 0, done.stdout + done.stderr
    assert " offers, median " in done.stdout
    assert " pages, median " in done.stdout
