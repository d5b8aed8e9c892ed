# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: names, numbers of ports, and what happens when something cannot be measured."""

from __future__ import annotations

import json

import pytest

from agent.core.errors import ApplyError
from bench import command, figures, registry
from bench.figures import NUMBER, Figure, Result
from bench.options import Options

MACHINE = {"cpus": 2, "kernel": "6.1", "ovs": "3.1.0"}


@pytest.fixture
def asked(monkeypatch):
    """Replace all benchmarks by one that counts ports, and fails for 13."""
    seen: list[tuple[str, Options]] = []

    def load(name):
        def run(options):
            seen.append((name, options))
            if options.most == 13:
                raise ApplyError("the switch does not answer")
            return Result(name, [Figure("ports", NUMBER, [options.most])])

        return run

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(figures, "machine", lambda: MACHINE)
    return seen


def test_without_names_all_are_measured_and_each_prints_one_object(asked, capsys):
    assert command.main(["--json"]) == 0

    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["bench"] for each in objects] == list(registry.names())
    assert set(objects[0]) == {"bench", "version", "machine", "figures"}
    assert objects[0]["machine"] == MACHINE
    assert objects[0]["figures"][0]["median"] == 400


def test_names_and_numbers_of_ports_are_taken_in_rising_order(asked):
    assert command.main(["memory", "wiring", "--ports", "20,5,20", "--quick"]) == 0

    assert asked == [(name, Options((5, 20), quick=True)) for name in ("memory", "wiring")]


@pytest.mark.parametrize("words", [["nonsense"], ["--ports", "0"], ["--ports", "many"], ["--ports", ""]])
def test_what_makes_no_sense_is_refused_before_anything_is_made(asked, words, capsys):
    with pytest.raises(SystemExit) as refusal:
        command.main(words)

    assert refusal.value.code == 2
    assert "error: argument" in capsys.readouterr().err
    assert not asked


def test_one_failure_is_said_and_the_others_are_measured_nevertheless(asked, capsys):
    assert command.main(["wiring", "restart", "--ports", "13"]) == 1

    assert capsys.readouterr().err.splitlines() == [
        "bench wiring: the switch does not answer",
        "bench restart: the switch does not answer",
    ]


def test_people_get_a_table_before_the_figures(asked, capsys):
    command.main(["wiring", "--ports", "7"])

    head, row, empty, published = capsys.readouterr().out.splitlines()[:4]
    assert head.split()[0] == "wiring"
    assert row.split()[:2] == ["ports", "7"]
    assert not empty
    assert json.loads(published)["bench"] == "wiring"
