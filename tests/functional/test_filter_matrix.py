# SPDX-License-Identifier: Apache-2.0
"""Random security groups, real packets through real hosts, and an oracle that knows only the API.

``HOSTPLANE_TEST_TOPOLOGIES`` says how many; each is a set of groups that a hundred
packets are tried with.  Random if it is given, else always the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.functional import filter_store
from tests.functional.filter_matrix import Matrix, Tried, report, smallest
from tests.functional.filter_oracle import World
from tests.functional.filter_topologies import PLACES, Topology, topologies
from tests.functional.filter_wire import Wire, namespace_of
from tests.functional.lab import Lab

ASKED = os.environ.get("HOSTPLANE_TEST_TOPOLOGIES")
TOPOLOGIES = int(ASKED or 100)


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(2)
    lab.bring_up(filter_store.document_of_places())
    filter_store.silence(lab, *(place.name for place in PLACES))
    return lab


def matrix(lab: Lab, wire: Wire) -> Matrix:
    hosts = [namespace_of(lab, host) for host in lab.sandbox.host_names]

    def change(world: World) -> None:
        lab.applied(lab.writer.apply(filter_store.document_of(world)))

    def forget() -> None:
        for host in hosts:
            filter_store.forget_connections(host)

    return Matrix(wire, change, forget)


def test_packets_do_what_the_api_says(lab: Lab) -> None:
    """Two topologies an example: the second changes the first one's groups under its connections."""
    done: list[Tried] = []
    wrong: list[Topology] = []
    begun = time.monotonic()
    with Wire(filter_store.stations(lab)) as wire:
        tried = matrix(lab, wire)

        # Not Hypothesis' way to make it smaller: that takes hundreds of attempts, each half a second.
        @settings(
            max_examples=-(-TOPOLOGIES // 2),
            derandomize=ASKED is None,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(topologies())
        def compare(topology: Topology) -> None:
            if not wrong:
                done.append(tried.try_out(topology))
                if done[-1].disagreements:
                    wrong.append(topology)

        compare()
        if wrong:
            least = smallest(lambda topology: bool(tried.try_out(topology).disagreements), wrong[0])
            pytest.fail(f"topology {len(done)}: {report(least, tried.try_out(least), done[-1])}", pytrace=False)
    sent, passed = sum(one.sent for one in done), sum(one.passed for one in done)
    print(f"{2 * len(done)} topologies, {sent} packets, {passed} pass; {time.monotonic() - begun:.1f} s")
    assert sent >= 150 * len(done)
    assert sent * 0.1 < passed < sent * 0.9, "the topologies are too alike to show anything"
