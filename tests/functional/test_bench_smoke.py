# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run from end to end on few ports, and a restart changes no flow."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from agent.sandbox.host import agent_environment

KEYS = {"name", "params", "unit", "median", "min", "max", "samples", "floor_median", "ratio"}
UNITS = {"s", "B", "1", "1/s"}


@pytest.fixture(scope="module")
def published():
    """Return what ``--quick --json`` prints, by benchmark."""
    names = ("wiring", "one-port", "restart", "memory", "filters", "filter-cost")
    argv = [sys.executable, "-m", "bench", *names, "--quick", "--json", "--ports", "1,5"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=dict(agent_environment()))
    assert done.returncode == 0, done.stderr
    return {result["bench"]: result for result in map(json.loads, done.stdout.splitlines())}


def figure(result, name, **params):
    return next(f for f in result["figures"] if f["name"] == name and f["params"] == params)


def test_what_is_published_has_the_promised_shape(published):
    for result in published.values():
        assert set(result) == {"bench", "version", "machine", "figures"}
        assert set(result["machine"]) == {"cpus", "kernel", "ovs"}
        for each in result["figures"]:
            assert set(each) == KEYS
            assert each["unit"] in UNITS
            assert each["min"] <= each["median"] <= each["max"]


def test_each_time_stands_beside_a_floor(published):
    every = [f for result in published.values() for f in result["figures"] if f["unit"] == "s"]
    timed = [f for f in every if not f["name"].endswith("-write")]  # what the writer takes is nobody's floor

    assert {f["name"] for f in timed} == {
        *("wiring", "after-numbers", "one-port", "converged", "cpu"),
        *("filter-convergence", "rule-added", "member-added", "member-pass", "port-added"),
        *("packet-new", "packet-established"),
    }
    for each in timed:
        assert each["floor_median"] > 0
        assert math.isclose(each["ratio"], each["median"] / each["floor_median"], rel_tol=1e-4)


def test_wiring_is_measured_for_each_number_of_ports(published):
    for ports in (1, 5):
        assert figure(published["wiring"], "wiring", ports=ports)["samples"] >= 1


def test_a_restart_changes_no_flow(published):
    assert figure(published["restart"], "flow-modifications", ports=5)["max"] == 0


def test_a_rule_more_hands_over_a_rule_and_not_a_ruleset(published):
    assert 50 < figure(published["filters"], "rule-bytes", ports=5, groups=4, rules=20)["max"] < 500


def test_memory_is_told_empty_and_with_ports_and_endpoints(published):
    memory = published["memory"]
    empty = figure(memory, "pss", ports=0, endpoints=0)

    assert empty["floor_median"] < empty["median"] < 100e6
    assert (
        figure(memory, "peak", ports=5, endpoints=50)["median"] >= figure(memory, "rss", ports=0, endpoints=0)["median"]
    )
    assert {"store-pss", "per-port", "per-endpoint"} <= {f["name"] for f in memory["figures"]}
