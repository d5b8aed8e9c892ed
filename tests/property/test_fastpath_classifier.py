# SPDX-License-Identifier: Apache-2.0
"""The classifier against its slow twin: the same rules for every packet, in the same order, whatever changed before."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent._fastpath import reference, reference_acl
from agent._fastpath.classifier import NONE, Change, Classifier, Reader, Simd, Verb, check
from agent._fastpath.rules import Place, Problem, Rule, RuleError
from tests.property.classifier_cases import packets, rule_sets, rules_about

CAPACITY = 64
Packets = Sequence[tuple[bytes, Place]]


def expected(rules: Sequence[Rule], frame: bytes, place: Place) -> tuple[int, ...]:
    return reference_acl.explain(rules, reference.parse(frame).key, place)


def agrees(reader: Reader, rules: Sequence[Rule], seen: Packets) -> None:
    for frame, place in seen:
        ids = expected(rules, frame, place)
        assert reader.explain(frame, place, CAPACITY) == ids
        assert reader.classify(frame, place) == (ids[0] if ids else None)


@given(st.data())
def test_each_kind_of_code_tells_what_the_reference_tells(data: st.DataObject) -> None:
    seen = data.draw(packets)
    rules = [rule for rule in data.draw(rule_sets(seen)) if check(rule) is None]
    for simd in Simd:
        classifier = Classifier(CAPACITY, simd)
        assert classifier.compile(rules) is None
        with classifier.reader() as reader:
            agrees(reader, rules, seen)


@given(st.data())
def test_what_is_refused_matches_no_packet(data: st.DataObject) -> None:
    seen = data.draw(packets)
    rule = data.draw(rules_about(seen, 5))
    problem = check(rule)
    if problem is not None:
        assert problem == Problem(5, RuleError.NEVER_MATCHES)
        assert [expected([rule], frame, place) for frame, place in seen] == [()] * len(seen)


@given(st.data())
def test_after_any_changes_the_rules_are_what_they_would_be_if_compiled(data: st.DataObject) -> None:
    seen = data.draw(packets)
    start = [rule for rule in data.draw(rule_sets(seen, 12)) if check(rule) is None]
    classifier = Classifier(CAPACITY)
    assert classifier.compile(start) is None
    model = {rule.id: rule for rule in start}
    with classifier.reader() as reader:
        for _ in range(data.draw(st.integers(1, 12))):
            batch = data.draw(st.lists(st.tuples(st.sampled_from(Verb), st.integers(0, 20)), min_size=1, max_size=4))
            changes = [Change(verb, data.draw(rules_about(seen, rule_id))) for verb, rule_id in batch]
            assert classifier.apply(changes) == [problem for change in changes for problem in apply(model, change)]
            agrees(reader, list(model.values()), seen)
    assert classifier.statistics.rules == len(model)


def apply(model: dict[int, Rule], change: Change) -> list[Problem]:
    """Do to *model* what a classifier shall do; return the same problem."""
    verb, rule = change
    bad = None if verb == Verb.DELETE else check(rule)
    if bad is not None:
        return [bad]
    if (rule.id in model) == (verb == Verb.INSERT):
        return [Problem(rule.id, RuleError.ID_TAKEN if verb == Verb.INSERT else RuleError.ID_UNKNOWN)]
    if verb == Verb.DELETE:
        del model[rule.id]
    else:
        model[rule.id] = rule
    return []


@given(st.data())
def test_a_batch_of_frames_tells_what_single_ones_tell(data: st.DataObject) -> None:
    seen = data.draw(packets)
    place = seen[0][1]
    rules = [rule for rule in data.draw(rule_sets(seen)) if check(rule) is None]
    classifier = Classifier(CAPACITY)
    assert classifier.compile(rules) is None
    many = [frame for frame, _ in seen] * 40
    spans, offset = array("I"), 0
    for frame in many:
        spans.extend((offset, len(frame)))
        offset += len(frame)
    with classifier.reader() as reader:
        ids = [None if found == NONE else found for found in reader.classify_frames(b"".join(many), spans, place)]
        assert ids == [reader.classify(frame, place) for frame in many]
