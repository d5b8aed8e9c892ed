# SPDX-License-Identifier: Apache-2.0
"""Driver ``flows`` on a real Open vSwitch."""

import time

import pytest

from agent.command import CommandRunner
from agent.core import naming
from agent.core.errors import CommandError
from agent.core.plan import Delta, ObjectId
from agent.drivers.flows import FlowsDriver
from tests.fakes.openvswitch import OpenVSwitch, accepts, wait_until

PORTS = [ObjectId(f"port:{n}") for n in range(20)]
FLOWS = {
    "table=0,priority=0": "drop",
    "table=0,priority=100,in_port=3": "set_field:0x1->reg0,resubmit(,7)",
    "table=7,priority=50,arp,metadata=0x5,arp_tpa=10.0.0.2": "output:4",
    "table=7,priority=50,icmp6,metadata=0x5,icmp_type=135,nd_target=fe80::1": "output:4",
    "table=9,priority=7,tun_id=0x2a": "drop",
}


@pytest.fixture(scope="module")
def ovs(tmp_path_factory):
    switch = OpenVSwitch(tmp_path_factory.mktemp("flows"))
    switch.start()
    switch.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "fail_mode=secure")
    wait_until(lambda: accepts(switch.folder / "br-int.mgmt"))
    yield switch
    switch.stop()


@pytest.fixture
def driver(ovs):
    ovs.ofctl("del-flows", "MGMT")
    return FlowsDriver(CommandRunner(), ovs.management)


def creating(flows, owner=PORTS[0]):
    return Delta(creates=flows, owners=dict.fromkeys(flows, owner))


def by_hand(ovs, line):
    ovs.ofctl("add-flow", "MGMT", line)


def test_what_is_written_reads_back_as_the_same_text(driver):
    assert driver.apply(creating(FLOWS)) == {}
    assert driver.observe() == FLOWS
    assert driver.observe(dict.fromkeys(FLOWS, PORTS[0])) == FLOWS
    assert driver.observe(dict.fromkeys(FLOWS, PORTS[1])) == {}
    assert driver.flow_counts() == {0: 2, 7: 2, 9: 1}


def test_updates_and_deletes_touch_exactly_their_flows(ovs, driver):
    driver.apply(creating(FLOWS))
    by_hand(ovs, "cookie=0x77,table=9,priority=8,tun_id=0x2a,actions=drop")
    by_hand(ovs, "cookie=0x77,table=9,priority=9,actions=drop")
    key = "table=9,priority=7,tun_id=0x2a"

    delta = Delta(
        updates={"table=0,priority=0": ("drop", "output:1")},
        deletes={key: "drop", "table=9,priority=9": "drop", "table=200,priority=1": "gone already"},
        owners={"table=0,priority=0": PORTS[0]},
    )
    assert driver.apply(delta) == {}

    assert driver.observe() == {k: v for k, v in FLOWS.items() if k != key} | {"table=0,priority=0": "output:1"}
    left = ovs.ofctl("--no-stats", "dump-flows", "MGMT", "table=9").splitlines()
    assert sorted(left) == [
        " cookie=0x77, table=9, priority=8,tun_id=0x2a actions=drop",
        " cookie=0x77, table=9, priority=9 actions=drop",
    ]


def test_flows_deleted_altered_and_added_under_our_cookie_are_seen(ovs, driver):
    driver.apply(creating(FLOWS))
    ovs.ofctl("--strict", "del-flows", "MGMT", "table=9,priority=7,tun_id=0x2a")
    ovs.ofctl("--strict", "mod-flows", "MGMT", "table=0,priority=100,in_port=3,actions=output:9")
    cookie = naming.flow_cookie(PORTS[0], "x", "y")
    by_hand(ovs, f"cookie={cookie:#x},table=30,priority=1,idle_timeout=99,actions=drop")

    seen = driver.observe()

    assert "table=9,priority=7,tun_id=0x2a" not in seen
    assert seen["table=0,priority=100,in_port=3"] == "output:9"
    assert seen["table=30,priority=1"] == "drop [idle_timeout=99]"
    assert driver.observe({"table=30,priority=1": ObjectId("")}) == {"table=30,priority=1": "drop [idle_timeout=99]"}


def test_bad_flows_fail_alone_and_by_name(driver):
    bad = {
        "table=1,priority=1": "group:5",  # refused when the bundle is committed
        "table=1,priority=2": "goto_table:0",  # refused by ovs-ofctl: backward
        "table=1,priority=3,nonsense=1": "drop",  # not parsable
        "table=254,priority=1": "drop",  # refused when it is sent: a table of the switch's own
        "table=1,priority=4": "group:6",
    }
    failed = driver.apply(creating({**FLOWS, **bad}))

    assert set(failed) == set(bad)
    assert driver.observe() == FLOWS
    assert "OFPBAC_BAD_OUT_GROUP" in str(failed["table=1,priority=1"])
    assert "nonsense" in str(failed["table=1,priority=3,nonsense=1"])
    assert str(failed["table=254,priority=1"]).startswith("flow table=254,priority=1: OFPBRC_EPERM")


def test_slices_read_all_flows_of_their_objects(driver):
    for n, port in enumerate(PORTS):
        driver.apply(creating({f"table=1,priority={n},in_port={i}": "drop" for i in range(1, 50)}, port))
    assert driver.slices() == 4

    parts = [driver.observe_slice(index, 4) for index in range(4)]

    assert sum(map(len, parts)) == 20 * 49
    assert {key: value for part in parts for key, value in part.items()} == driver.observe()


def test_a_switch_that_does_not_answer_or_is_not_there_is_an_error_of_the_driver(ovs, driver, tmp_path):
    with pytest.raises(CommandError, match="No such file or directory"):
        FlowsDriver(CommandRunner(), f"unix:{tmp_path}/br-int.mgmt").observe()

    impatient = FlowsDriver(lambda argv, **rest: CommandRunner()(argv, **{**rest, "timeout": 0.2}), ovs.management)
    ovs.freeze()
    try:
        with pytest.raises(CommandError, match="timed out"):
            impatient.apply(creating(FLOWS))
    finally:
        ovs.thaw()
    wait_until(lambda: ovs.ofctl("dump-flows", "MGMT", "table=255") is not None)
    driver.apply(creating(FLOWS))
    assert driver.observe() == FLOWS


@pytest.mark.alone
def test_eight_thousand_flows_are_written_and_read_near_the_switch_s_own_pace(driver):
    """Floors (facts.md): 14 us a flow to write and 7 us to read, plus a process each."""
    flows = {
        f"table=20,priority=100,ip,metadata={network:#x},nw_dst=10.0.{a}.{b}": f"output:{b}"
        for network in range(1, 9)
        for a in range(5)
        for b in range(1, 201)
    }
    started = time.perf_counter()
    assert driver.apply(creating(flows)) == {}
    written = time.perf_counter()
    assert driver.observe() == flows
    read = time.perf_counter()

    print(f"8,000 flows: written in {written - started:.3f} s, read in {read - written:.3f} s")
    assert written - started < 2.0
    assert read - written < 1.0


def test_many_new_flows_over_several_connections_are_as_good_as_one_bundle(ovs, driver):
    driver.apply(creating(FLOWS))
    by_hand(ovs, "cookie=0x77,table=9,priority=8,tun_id=0x2a,actions=drop")
    crowd = {f"table=60,priority=100,metadata=0x{n:x}": f"output:{n}" for n in range(1, 1501)}
    owners = {key: PORTS[n % len(PORTS)] for n, key in enumerate(crowd)}
    bad = "table=60,priority=100,metadata=0xbad"
    changed = "table=0,priority=0"
    delta = Delta(
        creates={**crowd, bad: "output:0xffffff00,nonsense"},
        updates={changed: ("drop", "output:1")},
        deletes={"table=9,priority=7,tun_id=0x2a": "drop"},
        owners={**owners, bad: PORTS[3], changed: PORTS[0]},
    )

    assert list(driver.apply(delta)) == [bad]

    wanted = {**FLOWS, **crowd, changed: "output:1"}
    del wanted["table=9,priority=7,tun_id=0x2a"]
    assert driver.observe() == wanted
    assert sum(driver.flow_counts().values()) == len(wanted)
    assert driver.observe_slice(naming.owner_hash(PORTS[3]) % 4, 4).keys() >= {
        key for key, owner in owners.items() if owner == PORTS[3]
    }
    assert "0x77" in ovs.ofctl("--no-stats", "dump-flows", "MGMT", "table=9")
