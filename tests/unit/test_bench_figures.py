# SPDX-License-Identifier: Apache-2.0
"""What a benchmark publishes: medians, floors, ratios, and how people read them."""

from __future__ import annotations

import pytest

from bench.figures import BYTES, NUMBER, RATE, SECONDS, Figure, Result, readable, table


def test_a_figure_is_its_median_beside_the_floors_median():
    figure = Figure("wiring", SECONDS, [0.4, 0.2, 0.9], {"ports": 400}, [0.1, 0.3, 0.2])

    assert figure.as_json() == {
        "name": "wiring",
        "params": {"ports": 400},
        "unit": "s",
        "median": 0.4,
        "min": 0.2,
        "max": 0.9,
        "samples": 3,
        "floor_median": 0.2,
        "ratio": 2.0,
    }


def test_without_a_floor_there_is_no_ratio():
    published = Figure("flow-modifications", NUMBER, [0, 0]).as_json()

    assert published["median"] == 0
    assert published["floor_median"] is None
    assert published["ratio"] is None


def test_a_floor_of_zero_gives_no_ratio():
    assert Figure("flow-modifications", NUMBER, [3], floor=[0]).ratio is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0421, SECONDS, "42.1 ms"),
        (1.234, SECONDS, "1.23 s"),
        (48_100_000, BYTES, "48.1 MB"),
        (5_450, BYTES, "5.5 kB"),
        (0, NUMBER, "0"),
        (0.5, NUMBER, "0.50"),
        (74205.4, RATE, "74205/s"),
    ],
)
def test_people_read_fitting_units(value, unit, text):
    assert readable(value, unit) == text


def test_the_table_has_a_line_for_each_figure_and_names_its_parameters():
    result = Result(
        "memory",
        [
            Figure("pss", BYTES, [25e6], {"ports": 0}, [24e6]),
            Figure("per-port", BYTES, [29_900], {"ports": 400}),
        ],
    )

    head, pss, per_port = table(result).splitlines()

    assert head.split() == ["memory", "median", "min", "max", "n", "floor", "ratio"]
    assert pss.split() == ["pss", "ports=0", "25.0", "MB", "25.0", "MB", "25.0", "MB", "1", "24.0", "MB", "1.04"]
    assert per_port.split()[:4] == ["per-port", "ports=400", "29.9", "kB"]
