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
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=dict(agent_environment()))
    assert done.returncode == 0, done.stderr
    return {result["bench"]: result["figures"] for result in map(json.loads, done.stdout.splitlines())}


def of(figures, name):
    return next(figure for figure in figures if figure["name"] == name and 0 not in figure["params"].values())


def test_a_restart_writes_nothing_into_routers_or_flows(published):
    for name in ("flow-modifications", "rules-written"):
        assert [each["max"] for each in published["routers"] if each["name"] == name] == [0, 0]


def test_routers_take_no_processes(published):
    assert of(published["routers"], "processes")["max"] == 2  # the agent and the responder


@pytest.mark.parametrize("kind", [{}, {"distributed": 1}], ids=["centralised", "distributed"])
@pytest.mark.parametrize("number", [1, 2])
def test_times_are_from_the_commit_to_the_answer_of_whom_an_address_stands_for(published, number, kind):
    for names in (("floating-ips", "floating-write"), ("port-forwardings", "forwarding-write")):
        params = {names[0].replace("-", "_"): number, **kind}
        times = [each for each in published["floating-ips"] if each["params"] == params]
        assert {each["name"] for each in times} == set(names)
        assert all(0 <= each["median"] < 10 for each in times), times


@pytest.mark.parametrize("kind", [{}, {"distributed": 1}], ids=["centralised", "distributed"])
def test_routers_of_either_kind_answer(published, kind):
    for name in ("routers", "routers-applied", "restart"):
        (figure,) = [f for f in published["routers"] if f["name"] == name and f["params"] == {"routers": 3, **kind}]
        assert figure["median"] > 0


def test_the_path_through_a_router_stands_beside_that_through_one_made_by_hand(published):
    for name in ("stream", "round-trip"):
        assert of(published["routed-path"], name)["floor_median"] > 0
        assert of(published["routed-path"], f"{name}-ratio")["median"] > 0
