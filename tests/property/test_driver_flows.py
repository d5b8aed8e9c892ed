# SPDX-License-Identifier: Apache-2.0
"""The flows driver against a switch that executes what it is told."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import naming
from agent.core.errors import CommandError
from agent.core.plan import Delta, ObjectId
from agent.drivers.flows import FlowsDriver
from tests.fakes.drivers import Crash, Fuse
from tests.fakes.flow_switch import FakeFlowSwitch

OWNERS = [ObjectId(f"port:{n}") for n in range(12)]
KEYS = [
    f"table={table},priority={priority}{match}"
    for table in (0, 7, 40)
    for priority, match in ((0, ""), (100, ",in_port=3"), (100, ",ip,nw_dst=10.0.0.0/24"))
]
ACTIONS = st.sampled_from(["drop", "output:3", "set_field:0x1->reg0,resubmit(,7)"])
DESIRED = st.dictionaries(st.sampled_from(KEYS), st.tuples(ACTIONS, st.sampled_from(OWNERS)))
FOREIGN = {"table=3,priority=5,ip": "drop", "table=0,priority=100,in_port=9": "output:3"}


def switch_with_foreign_flows():
    switch = FakeFlowSwitch()
    for key, actions in FOREIGN.items():
        switch.add(key, actions, cookie=0x1234)
    return switch


def difference(driver, desired):
    """Return what has to be written, as the reconciler's first pass finds it."""
    actual = driver.observe()
    return Delta(
        creates={key: actions for key, (actions, _) in desired.items() if key not in actual},
        updates={
            key: (actual[key], actions)
            for key, (actions, _) in desired.items()
            if key in actual and actual[key] != actions
        },
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners={key: owner for key, (_, owner) in desired.items()},
    )


def reconcile(driver, desired):
    delta = difference(driver, desired)
    return driver.apply(delta), delta


@given(st.lists(DESIRED, min_size=1, max_size=4))
def test_the_tables_depend_only_on_the_last_desired_state(history):
    switch = switch_with_foreign_flows()
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    for desired in history:
        assert reconcile(driver, desired)[0] == {}

    last = history[-1]
    assert driver.observe() == {key: actions for key, (actions, _) in last.items()}
    assert {key: flow.actions for key, flow in switch.flows.items() if flow.cookie == 0x1234} == FOREIGN
    assert not difference(driver, last)


@given(DESIRED, DESIRED, st.integers(0, 1))
def test_a_crash_around_the_bundle_leaves_the_old_or_the_new_state(before, after, operations):
    switch = switch_with_foreign_flows()
    reconcile(FlowsDriver(switch, "unix:br-int.mgmt"), before)
    old = switch.dump()
    switch.fuse = Fuse(operations)
    with contextlib.suppress(Crash):
        reconcile(FlowsDriver(switch, "unix:br-int.mgmt"), after)
    switch.fuse = None
    left = switch.dump()

    fresh = FlowsDriver(switch, "unix:br-int.mgmt")
    reconcile(fresh, after)

    assert left in (old, switch.dump())
    assert not difference(fresh, after)


@given(DESIRED)
def test_slices_hold_everything_once_and_each_object_whole(desired):
    driver = FlowsDriver(switch_with_foreign_flows(), "unix:br-int.mgmt")
    reconcile(driver, desired)

    slices = [driver.observe_slice(index, 4) for index in range(4)]

    assert {key for part in slices for key in part} == set(desired)
    for index, part in enumerate(slices):
        assert {naming.owner_hash(desired[key][1]) % 4 for key in part} <= {index}


@given(DESIRED, st.sets(st.sampled_from(KEYS)), st.sampled_from([0, 5_000, 10_000_000]))
def test_reading_some_flows_back_finds_what_a_full_reading_finds(desired, asked, flows_on_host):
    driver = FlowsDriver(switch_with_foreign_flows(), "unix:br-int.mgmt")
    reconcile(driver, desired)
    everything = driver.observe()
    driver._per_table[250] = flows_on_host  # whatever way of asking that makes the cheapest
    owners = {key: desired[key][1] if key in desired else OWNERS[0] for key in asked}

    assert driver.observe(owners) == {key: everything[key] for key in asked if key in everything}
    unknown = dict.fromkeys(asked, ObjectId(""))
    assert driver.observe(unknown) == {key: everything[key] for key in asked if key in everything}


@given(DESIRED, st.sampled_from(["drop", "output:3"]))
def test_refused_flows_do_not_hinder_the_others(desired, refused):
    switch = switch_with_foreign_flows()
    switch.refuse = {refused}
    switch.unparsable = {"nw_dst"}
    driver = FlowsDriver(switch, "unix:br-int.mgmt")

    failed, _ = reconcile(driver, desired)

    bad = {key for key, (actions, _) in desired.items() if actions == refused or "nw_dst" in key}
    assert set(failed) == bad
    assert set(driver.observe()) == set(desired) - bad
    assert sum(driver.flow_counts().values()) == len(desired) - len(bad)


def test_flows_changed_behind_our_back_are_seen_as_they_are():
    switch = switch_with_foreign_flows()
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    desired = dict.fromkeys(KEYS, ("output:3", OWNERS[0]))
    reconcile(driver, desired)
    ours = switch.flows[KEYS[0]].cookie

    switch.add(KEYS[0], "drop", cookie=ours)  # mod-flows keeps the cookie
    switch.add("table=9,priority=1", "drop", cookie=ours)
    del switch.flows[KEYS[1]]
    switch.add(KEYS[2], "output:3", cookie=0)

    seen = difference(driver, desired)
    assert set(seen.creates) == {KEYS[1], KEYS[2]}
    assert seen.updates == {KEYS[0]: ("drop", "output:3")}
    assert set(seen.deletes) == {"table=9,priority=1"}
    assert driver.observe(dict.fromkeys(KEYS[:3], OWNERS[0])) == {KEYS[0]: "drop"}


def test_a_foreign_flow_in_the_place_of_ours_is_replaced_and_never_deleted():
    switch = switch_with_foreign_flows()
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    place = next(iter(FOREIGN))

    driver.apply(Delta(deletes={place: FOREIGN[place]}))
    assert switch.flows[place].actions == FOREIGN[place]
    driver.apply(Delta(creates={place: "output:1"}, owners={place: OWNERS[0]}))
    assert driver.observe() == {place: "output:1"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_answer_in_time_is_an_error_of_the_whole_driver(when):
    switch = switch_with_foreign_flows()
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    switch.hang = when

    with pytest.raises(CommandError, match="timed out"):
        reconcile(driver, {KEYS[0]: ("drop", OWNERS[0])})
    assert reconcile(driver, {KEYS[0]: ("drop", OWNERS[0])})[0] == {}
    assert driver.observe() == {KEYS[0]: "drop"}


def test_a_switch_that_is_away_is_an_error_of_the_whole_driver():
    switch = switch_with_foreign_flows()
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    switch.away = True

    with pytest.raises(CommandError, match="Connection refused"):
        driver.apply(Delta(creates={KEYS[0]: "drop"}, owners={KEYS[0]: OWNERS[0]}))


def test_many_refused_flows_cost_a_bounded_number_of_bundles_and_all_are_reported():
    switch = FakeFlowSwitch()
    switch.refuse = {"group:1"}
    driver = FlowsDriver(switch, "unix:br-int.mgmt")
    keys = [f"table=1,priority={number}" for number in range(200)]

    failed, _ = reconcile(driver, dict.fromkeys(keys, ("group:1", OWNERS[0])))

    assert set(failed) == set(keys)
    assert switch.processes < 40


def test_an_empty_delta_starts_no_process():
    switch = FakeFlowSwitch()

    assert FlowsDriver(switch, "unix:br-int.mgmt").apply(Delta()) == {}
    assert FlowsDriver(switch, "unix:br-int.mgmt").observe({}) == {}
    assert switch.processes == 0
