# SPDX-License-Identifier: Apache-2.0
"""Driver ``ovs`` on a real Open vSwitch."""

import pytest

from agent.core.errors import Actor, ApplyError, StoreError
from agent.core.items import OvsBridge, OvsPort
from agent.core.plan import Delta, ObjectId
from agent.drivers.ovs import OvsDriver
from agent.drivers.switch import LocalSwitch
from tests.fakes.openvswitch import OpenVSwitch, accepts, wait_until

BRIDGE = {"bridge/br-int": OvsBridge("br-int")}
TUNNEL = {"port/hp-vxlan": OvsPort("hp-vxlan", "br-int", "vxlan", (("key", "flow"), ("remote_ip", "flow")))}


@pytest.fixture
def ovs(tmp_path):
    switch = OpenVSwitch(tmp_path)
    switch.start()
    yield switch
    switch.stop()


@pytest.fixture
def local(ovs):
    switch = LocalSwitch(ovs.database, lambda: None)
    switch.start()
    wait_until(lambda: switch.view().connected)
    yield switch
    switch.stop()


@pytest.fixture
def driver(local):
    return OvsDriver(local)


OWNER = ObjectId("host")


def creating(items):
    return Delta(creates=items, owners=dict.fromkeys(items, OWNER))


def test_makes_bridge_port_and_number_in_one_go_and_reads_the_same_back(ovs, driver):
    items = {**TUNNEL, "allocation/network/n:1": "17", **BRIDGE}

    assert driver.apply(creating(items)) == {}
    assert driver.observe() == items
    assert driver.observe({"port/hp-vxlan": OWNER, "port/no": OWNER}) == TUNNEL
    assert ovs.vsctl("get-fail-mode", "br-int").strip() == "secure"
    wait_until(lambda: accepts(ovs.folder / "br-int.mgmt"))  # the driver does not wait for ovs-vswitchd
    wait_until(lambda: "hp-vxlan" in ovs.ofctl("show", "MGMT"))


def test_writing_the_same_again_changes_nothing(ovs, driver):
    def written() -> tuple[str, str]:  # not what ovs-vswitchd fills in by and by
        columns = "--columns=_uuid,name,external_ids,fail_mode,other_config,protocols,ports"
        return ovs.vsctl("list", "Port"), ovs.vsctl(columns, "list", "Bridge")

    driver.apply(creating({**BRIDGE, **TUNNEL}))
    before = written()

    assert driver.apply(creating({**BRIDGE, **TUNNEL})) == {}
    assert written() == before


def test_an_integration_bridge_of_somebody_else_is_adopted_with_all_that_is_on_it(ovs, driver):
    ovs.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "protocols=OpenFlow10,OpenFlow13")
    ovs.vsctl("add-port", "br-int", "tap1", "--", "set", "Interface", "tap1", "type=dummy")
    wait_until(lambda: driver._switch.rows().bridge("br-int"))
    assert driver.observe() == {}

    assert driver.apply(creating({**BRIDGE, **TUNNEL})) == {}
    assert driver.observe() == {**BRIDGE, **TUNNEL}
    assert ovs.vsctl("get-fail-mode", "br-int").strip() == "secure"
    assert "OpenFlow14" in ovs.vsctl("get", "Bridge", "br-int", "protocols")

    assert driver.apply(Delta(deletes={**BRIDGE, **TUNNEL})) == {}
    assert driver.observe() == {}
    assert ovs.vsctl("list-ports", "br-int").split() == ["tap1"]


def test_a_bridge_that_we_made_goes_with_its_ports(ovs, driver):
    driver.apply(creating({**BRIDGE, **TUNNEL}))

    assert driver.apply(Delta(deletes={**BRIDGE, **TUNNEL})) == {}
    assert ovs.vsctl("list-br") == ""


def test_one_item_that_cannot_be_written_does_not_hinder_the_others(ovs, driver):
    ovs.vsctl(
        "add-br", "br-int", "--", "add-port", "br-int", "hp-i-lan", "--", "set", "Interface", "hp-i-lan", "type=dummy"
    )
    wait_until(lambda: driver._switch.rows().bridge("br-int"))
    foreign = {"port/hp-i-lan": OvsPort("hp-i-lan", "br-int", "patch")}
    missing = {"port/hp-p-lan": OvsPort("hp-p-lan", "br-phy1", "patch")}

    failed = driver.apply(creating({**BRIDGE, **TUNNEL, **foreign, **missing}))

    assert {key: str(err) for key, err in failed.items()} == {
        "port/hp-i-lan": "port hp-i-lan exists and was not made by hostplane",
        "port/hp-p-lan": "port hp-p-lan: bridge br-phy1 does not exist",
    }
    assert {err.actor for err in failed.values() if isinstance(err, ApplyError)} == {Actor.OPERATOR}
    assert driver.observe() == {**BRIDGE, **TUNNEL}
    assert ovs.vsctl("get", "Interface", "hp-i-lan", "type").strip() == "dummy"


def test_options_change_in_place_and_a_new_type_makes_a_new_port(ovs, driver):
    driver.apply(creating({**BRIDGE, **TUNNEL}))
    wait_until(lambda: driver._switch.view().ofports.get("hp-vxlan"))
    row = ovs.vsctl("get", "Port", "hp-vxlan", "_uuid")

    moved = OvsPort("hp-vxlan", "br-int", "vxlan", (("dst_port", "4790"), ("key", "flow"), ("remote_ip", "flow")))
    assert (
        driver.apply(
            Delta(updates={"port/hp-vxlan": (TUNNEL["port/hp-vxlan"], moved)}, owners={"port/hp-vxlan": OWNER})
        )
        == {}
    )
    assert driver.observe()["port/hp-vxlan"] == moved
    assert ovs.vsctl("get", "Port", "hp-vxlan", "_uuid") == row

    other = OvsPort("hp-vxlan", "br-int", "geneve", moved.options)
    assert driver.apply(Delta(updates={"port/hp-vxlan": (moved, other)}, owners={"port/hp-vxlan": OWNER})) == {}
    assert driver.observe()["port/hp-vxlan"] == other
    assert ovs.vsctl("get", "Port", "hp-vxlan", "_uuid") != row


def test_numbers_are_changed_and_freed(ovs, driver):
    driver.apply(creating({**BRIDGE, "allocation/network/a": "1", "allocation/network/b": "2"}))

    driver.apply(
        Delta(
            updates={"allocation/network/a": ("1", "3")},
            deletes={"allocation/network/b": "2"},
            owners={"allocation/network/a": OWNER},
        )
    )

    assert driver.observe() == {**BRIDGE, "allocation/network/a": "3"}
    assert ovs.vsctl("get", "Bridge", "br-int", "external_ids").strip() == '{hostplane=made, "hostplane:network:a"="3"}'


def test_a_number_without_its_bridge_fails_alone(driver):
    failed = driver.apply(creating({"allocation/network/a": "1"}))

    assert list(failed) == ["allocation/network/a"]


def test_a_plugged_interface_is_never_taken_for_ours(ovs, driver):
    driver.apply(creating(BRIDGE))
    ovs.vsctl(
        *("add-port", "br-int", "tap2", "--", "set", "Interface", "tap2", "type=dummy", "external_ids:iface-id=p2"),
        *("--", "set", "Port", "tap2", "external_ids:hostplane=plug"),
    )
    wait_until(lambda: driver._switch.view().interfaces)

    assert driver.observe() == BRIDGE
    assert driver.apply(Delta(deletes={"port/tap2": OvsPort("tap2", "br-int", "")})) == {}
    assert ovs.vsctl("list-ports", "br-int").split() == ["tap2"]


def test_the_type_of_an_adopted_datapath_counts_only_if_the_configuration_names_one(ovs, local):
    ovs.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
    wait_until(lambda: local.rows().bridge("br-int"))
    assert OvsDriver(local).apply(creating(BRIDGE)) == {}

    assert OvsDriver(local).observe() == BRIDGE
    assert OvsDriver(local, "netdev").observe() == {"bridge/br-int": OvsBridge("br-int", "netdev")}


def test_the_database_being_away_is_told_at_once_and_nothing_is_written_later(ovs, local, driver):
    driver.apply(creating(BRIDGE))
    ovs.stop_server()
    wait_until(lambda: not local.is_connected())

    with pytest.raises(ApplyError, match="is away"):
        driver.apply(creating(TUNNEL))
    tries = []

    def stale(_, tables, rows):
        tries.append(1)
        tables["Bridge"].rows[rows.bridge("br-int")[0]].setkey("external_ids", "hostplane:network:stale", "9")

    with pytest.raises(StoreError, match="no answer within"):
        local.transact(stale, timeout=0.3)
    before = len(tries)
    ovs.start_server()
    wait_until(local.is_connected)
    assert driver.apply(creating({"allocation/network/a": "1"})) == {}
    assert len(tries) == before
    assert driver.observe() == {**BRIDGE, "allocation/network/a": "1"}
