# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of routers run from end to end on few, and a restart leaves them alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent.sandbox.host import agent_environment


@pytest.fixture(scope="module")
def published():
    """Return the figures that ``--quick --json`` prints, by benchmark; it fails if one address never answers."""
    argv = [sys.executable, "-m", "bench", "floating-ips", "routers", "routed-path", "--quick", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=dict(agent_environment()))
    assert done.returncode == 0, done.stderr
    return {result["bench"]: result["figures"] for result in map(json.loads, done.stdout.splitlines())}


def of(figures, name):
    return next(figure for figure in figures if figure["name"] == name and 0 not in figure["params"].values())


def test_a_restart_writes_nothing_into_routers_or_flows(published):
    for name in ("flow-modifications", "rules-written"):
        assert of(published["routers"], name)["max"] == 0


def test_routers_take_no_processes(published):
    assert of(published["routers"], "processes")["max"] == 2  # the agent and the responder


def test_times_are_from_the_commit_to_the_answer_of_whom_a_floating_ip_stands_for(published):
    for number in (1, 2):
        times = [each for each in published["floating-ips"] if each["params"] == {"floating_ips": number}]
        assert {each["name"] for each in times} == {"floating-ips", "floating-write"}
        assert all(0 < each["median"] < 10 for each in times)


def test_the_path_through_a_router_stands_beside_that_through_one_made_by_hand(published):
    for name in ("stream", "round-trip"):
        assert of(published["routed-path"], name)["floor_median"] > 0
