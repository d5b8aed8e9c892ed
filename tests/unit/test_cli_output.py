# SPDX-License-Identifier: Apache-2.0
"""Tables and texts for people."""

from __future__ import annotations

import pytest

from agent.cli.output import Value, age, cell, duration, pairs, printable, table


def test_columns_are_aligned_and_empty_cells_are_marked() -> None:
    rows: list[list[Value]] = [["blue", 1, None], ["a-long-name", 16777215, "x"]]
    assert table(rows, ("name", "segmentation_id", "physnet")) == [
        "NAME         SEGMENTATION ID  PHYSNET",
        "blue         1                -",
        "a-long-name  16777215         x",
    ]


def test_no_rows_are_no_table() -> None:
    assert table([], ("name",)) == []


def test_an_object_is_shown_one_field_a_line_and_a_list_one_item_a_line() -> None:
    assert pairs({"name": "vm1", "fixed_ips": ["10.0.0.1", "::1"], "physnet": None}) == [
        "name       vm1",
        "fixed_ips  10.0.0.1",
        "           ::1",
        "physnet    -",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ({"a": "b", "c": [1, 2]}, "a=b, c=1, 2"),
        ([], ""),
    ],
)
def test_values_read_as_people_write_them(value, text: str) -> None:
    assert cell(value) == text


def test_what_others_wrote_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\x9b") == "a\\x1b[2Jb\\nc\\x9b"
    assert printable("grün") == "grün"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0354, "35 ms"),
        (4.23, "4.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages() -> None:
    assert age(None) == "never"
    assert age(100.0, now=104.2) == "4.2 s"
    assert age(100.0, now=90.0) == "0 ms"  # clocks of two machines differ
