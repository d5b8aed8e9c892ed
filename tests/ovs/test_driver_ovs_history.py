# SPDX-License-Identifier: Apache-2.0
"""Driver ``ovs``: whatever was wanted before, the database holds what is wanted last."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.items import OvsBridge, OvsPort
from agent.core.plan import Delta, ObjectId
from agent.drivers.ovs import OvsDriver
from agent.drivers.switch import LocalSwitch
from tests.fakes.openvswitch import OpenVSwitch, wait_until

OWNER = ObjectId("host")
BRIDGE = {"bridge/br-int": OvsBridge("br-int")}
PORTS = st.builds(
    OvsPort,
    name=st.sampled_from(["hp-vxlan", "hp-i-lan", "hp-p-lan"]),
    bridge=st.sampled_from(["br-int", "br-phy1"]),
    type=st.sampled_from(["vxlan", "patch", "geneve"]),
    options=st.sampled_from([(), (("key", "flow"),), (("key", "flow"), ("peer", "hp x,=\"'"))]),
)
NUMBERS = st.dictionaries(
    st.sampled_from(["allocation/network/1", "allocation/network/a:b", "allocation/zone/1"]),
    st.sampled_from(["1", "2"]),
)
DESIRED = st.builds(
    lambda ports, numbers: {**BRIDGE, **{f"port/{port.name}": port for port in ports}, **numbers},
    st.lists(PORTS, max_size=4),
    NUMBERS,
)
FOREIGN = (
    ("list", "Port", "tap1", "eth1"),
    ("--columns=name,type,options,external_ids", "list", "Interface", "tap1", "eth1"),
)


@pytest.fixture(scope="module")
def ovs(tmp_path_factory):
    switch = OpenVSwitch(tmp_path_factory.mktemp("history"))
    switch.start_server_alone()
    plugged = ("set", "Interface", "tap1", "external_ids:iface-id=p1")
    switch.vsctl("--no-wait", "add-br", "br-int", "--", "add-port", "br-int", "tap1", "--", *plugged)
    switch.vsctl("--no-wait", "add-br", "br-phy1", "--", "add-port", "br-phy1", "eth1")
    yield switch
    switch.stop()


@pytest.fixture(scope="module")
def driver(ovs):
    switch = LocalSwitch(ovs.database, lambda: None)
    switch.start()
    wait_until(lambda: switch.view().connected)
    yield OvsDriver(switch)
    switch.stop()


def difference(driver, desired):
    actual = driver.observe()
    return Delta(
        creates={key: value for key, value in desired.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in desired.items() if actual.get(key, value) != value},
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(history=st.lists(DESIRED, min_size=1, max_size=4))
def test_the_database_depends_only_on_what_is_wanted_last(ovs, driver, history):
    before = [ovs.vsctl(*words) for words in FOREIGN]
    for desired in history:
        assert driver.apply(difference(driver, desired)) == {}

        assert driver.observe() == desired
        assert not difference(driver, desired)
    assert [ovs.vsctl(*words) for words in FOREIGN] == before
    assert set(ovs.vsctl("list-br").split()) == {"br-int", "br-phy1"}
