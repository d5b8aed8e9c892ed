# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of DHCP and metadata run from end to end: all are answered, by as many processes for many networks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent.sandbox.host import agent_environment


@pytest.fixture(scope="module")
def published():
    """Return the figures that ``--quick --json`` prints, by benchmark; it fails if one client got no right answer."""
    argv = [sys.executable, "-m", "bench", "dhcp", "metadata", "--quick", "--json", "--ports", "4"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=dict(agent_environment()))
    assert done.returncode == 0, done.stderr
    return {result["bench"]: result["figures"] for result in map(json.loads, done.stdout.splitlines())}


def of(figures, name):
    return {figure["params"].get("networks"): figure for figure in figures if figure["name"] == name}


def test_one_network_and_many_take_the_same_processes(published):
    processes = of(published["dhcp"], "processes")

    assert {networks: figure["max"] for networks, figure in processes.items()} == {1: 2, 4: 2}


def test_rates_stand_beside_those_of_what_does_the_job_today(published):
    for bench, names in (("dhcp", ["exchanges"]), ("metadata", ["requests", "new-requests"])):
        for name in names:
            figures = of(published[bench], name)
            assert set(figures) == {1, 4}
            assert all(figure["median"] > 0 and figure["floor_median"] > 0 for figure in figures.values())


def test_new_networks_are_served_in_seconds(published):
    assert of(published["dhcp"], "served")[4]["max"] < 5
