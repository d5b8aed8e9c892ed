# SPDX-License-Identifier: Apache-2.0
"""What a watched host sends through its own tunnel port reaches ports here as if there were no watching."""

import pytest
from scapy.layers.l2 import Ether

from agent.core import naming
from agent.core.memo import Memo
from agent.core.model import HostName, NetworkType
from agent.l2.hosts import plan_peers as plan_hosts
from agent.l3.peers import plan_peers
from agent.l3.state import GatewayState, Peer
from tests.golden.l2_world import OFPORTS, SETTINGS, World, mac, underlay
from tests.ovs.pipeline_lab import dump, load, parse_outputs, running_switch

FIXED = 900


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("peers"), ports=1) as running:
        name = naming.peer_port_name("there")
        options = ("type=vxlan", f"ofport_request={FIXED}", "options:key=flow", f"options:remote_ip={underlay(2)}")
        running.vsctl("--", "add-port", "br-int", name, "--", "set", "Interface", name, *options)
        yield running


def test_what_a_watched_host_sends_reaches_ports_of_its_network(switch):
    world = World()
    world.host("there", underlay(2), frozenset({NetworkType.VXLAN}))
    world.network("blue", "vxlan", 5000)
    world.port(1, "blue", "10.0.0.1")
    flows = world.flows()
    snapshot = world.snapshot()
    tunnels = {"vxlan": OFPORTS["hp-vxlan"]}
    memo = Memo()
    memo.begin()
    peers = plan_hosts(memo, snapshot.hosts, snapshot.host, SETTINGS, tunnels)
    state = GatewayState(peers=(Peer(HostName("there"), 100),))
    (group,) = plan_peers(memo, state, peers, SETTINGS, {naming.peer_port_name("there"): FIXED}).values()
    flows.update({key: str(text) for key, text in group.items["flows"].items()})
    load(switch, flows)
    assert dump(switch) == flows
    frame = bytes(Ether(dst=mac(1), src="fa:16:3e:00:00:99", type=0x0800) / (b"\x45" + bytes(40)))
    for source, seen in ((underlay(2), {"tap1"}), (underlay(3), set())):
        arriving = f"in_port={FIXED},tun_id=5000,tun_src={source},tun_dst={underlay(1)}"
        trace = switch.appctl("ofproto/trace", "--names", "br-int", arriving, frame.hex())
        assert parse_outputs(trace) == seen, trace
