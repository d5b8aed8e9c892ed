# SPDX-License-Identifier: Apache-2.0
"""The benchmark's rule sets: what is drawn, what is written and read back, and that the classifier is right on them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from agent._fastpath.classifier import NONE, Classifier
from bench import rule_sets


@pytest.mark.parametrize("name", rule_sets.NAMES)
def test_the_classifier_finds_the_first_match_of_drawn_headers(name: str) -> None:
    drawn = rule_sets.draw(name, 500, headers=400)
    classifier = Classifier()
    assert classifier.compile(drawn.rules()) is None
    with classifier.reader(400) as reader:
        found = reader.classify_keys(rule_sets.keys(drawn.headers))
        assert [None if rule == NONE else rule for rule in found] == [drawn.first_match(h) for h in drawn.headers]


@pytest.mark.parametrize("name", rule_sets.NAMES)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    drawn = rule_sets.draw(name, 100, headers=50)
    rules, trace = tmp_path / "rules.gz", tmp_path / "trace.gz"
    rules.write_bytes(gzip.compress("".join(rule_sets.rule_lines(drawn.boxes)).encode()))
    trace.write_bytes(gzip.compress("".join(rule_sets.header_lines(drawn.headers)).encode()))
    assert rule_sets.load(rules, trace) == drawn


def test_a_zipf_order_repeats_few_headers_often() -> None:
    drawn = rule_sets.draw("acl1", 200, headers=2000)
    often = rule_sets.zipf(drawn.headers)
    assert len(often) == 2000
    assert len(set(often)) < len(set(drawn.headers)) / 2
