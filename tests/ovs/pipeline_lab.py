# SPDX-License-Identifier: Apache-2.0
"""A real switch that holds planned flows, and packets to ask it about (``ofproto/trace``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scapy.packet import Packet

from agent.core.openflow import OPENFLOW_VERSION
from agent.drivers.flow_text import parse_dump
from tests.fakes.openvswitch import OpenVSwitch, wait_until
from tests.golden.l2_world import OFPORTS, SERVICE_OFPORTS, World, underlay

GATEWAY = underlay(0xFFFE)
UNDERLAY = "uplink1"  # what leads out of br-phy
TUNNELS = {OFPORTS["hp-vxlan"]: "vxlan", OFPORTS["hp-geneve"]: "geneve"}
PATCH = f"in_port={OFPORTS['hp-i-physnet1']}"  # from br-phy, but past its own NORMAL
_CLONE = re.compile(r"clone\((.*)\)")
_PUSH = re.compile(r"tnl_push\(.*\bipv4\(src=[\d.]+,dst=([\d.]+),.*\b(vxlan|geneve)\(.*\bvni=(0x[0-9a-f]+)")


@contextmanager
def running_switch(folder: Path, ports: int, peers: int = 2, *, dummy_tunnels: bool = False) -> Iterator[OpenVSwitch]:
    """Run a switch with br-int (taps 1..*ports*, the responder's devices, both tunnels, patch to br-phy) and br-phy."""
    # "override" makes dummies of tunnel ports, too: nothing is encapsulated, copies are only counted.
    switch = OpenVSwitch(folder, ("--enable-dummy=override" if dummy_tunnels else "--enable-dummy",))
    switch.start()
    try:
        words = [*_bridge("br-int"), *_bridge("br-phy")]
        for number in range(1, ports + 1):
            words += _port("br-int", f"tap{number}", "type=dummy", f"ofport_request={number}")
        for number, kind in TUNNELS.items():
            # Without local_ip: without privileges there is no kernel route that says that the address is local.
            options = ("options:key=flow", "options:remote_ip=flow")
            words += _port("br-int", f"hp-{kind}", f"type={kind}", f"ofport_request={number}", *options)
        for name, number in SERVICE_OFPORTS.items():
            words += _port("br-int", name, "type=dummy", f"ofport_request={number}")
        number = OFPORTS["hp-i-physnet1"]
        patch = ("type=patch", f"ofport_request={number}", "options:peer=hp-p-physnet1")
        words += _port("br-int", "hp-i-physnet1", *patch)
        words += _port("br-phy", "hp-p-physnet1", "type=patch", "options:peer=hp-i-physnet1")
        words += _port("br-phy", UNDERLAY, "type=dummy", "ofport_request=1")
        switch.vsctl(*words)
        wait_until((switch.folder / "br-int.mgmt").exists)
        # The tunnels' underlay: br-phy itself, with everybody behind one gateway.
        switch.appctl("netdev-dummy/ip4addr", "br-phy", f"{underlay(1)}/16")
        switch.appctl("ovs/route/add", f"{underlay(0)}/16", "br-phy", GATEWAY)
        switch.appctl("tnl/neigh/set", "br-phy", GATEWAY, "02:00:00:00:00:01")
        yield switch
    finally:
        switch.stop()


def _bridge(name: str) -> list[str]:
    settings = ["datapath_type=dummy", "fail-mode=secure" if name == "br-int" else "fail-mode=standalone"]
    return ["--", "add-br", name, "--", "set", "Bridge", name, *settings]


def _port(bridge: str, name: str, *settings: str) -> list[str]:
    return ["--", "add-port", bridge, name, "--", "set", "Interface", name, *settings]


def load(switch: OpenVSwitch, flows: dict[str, str]) -> None:
    """Make the flows of br-int equal to *flows*, in one bundle."""
    lines = ["delete\n", *(f"add {key},actions={actions}\n" for key, actions in flows.items())]
    switch.ofctl("--bundle", "add-flows", "MGMT", "-", stdin="".join(lines))


def dump(switch: OpenVSwitch) -> dict[str, str]:
    """Return the flows of br-int as the switch shows them."""
    assert OPENFLOW_VERSION == "OpenFlow14"  # what ofctl() uses
    return parse_dump(switch.ofctl("--no-stats", "--no-names", "dump-flows", "MGMT"))


class Lab:
    """A world in a switch."""

    def __init__(self, switch: OpenVSwitch, world: World) -> None:
        self.switch = switch
        load(switch, world.flows())

    def send(self, source: int | str, packet: Packet | bytes) -> set[str]:
        """Return where *packet* goes: "tap3", "uplink1", "uplink1 vlan 100", "vxlan 5000 to 198.18.0.2".

        *source* is a tap's number, "uplink1", or a tunnel as ``tunnel`` describes it.
        """
        bridge, flow = "br-int", f"in_port={source}"
        if source == UNDERLAY:
            bridge, flow = "br-phy", "in_port=1"
        elif isinstance(source, str):
            flow = source
        text = self.switch.appctl("ofproto/trace", "--names", bridge, flow, bytes(packet).hex())
        self.trace = text
        return parse_outputs(text)


def tunnel(kind: str, vni: int, source: str) -> str:
    """Return a packet's way in: by tunnel from host *source*."""
    ofport = next(number for number, name in TUNNELS.items() if name == kind)
    return f"in_port={ofport},tun_id={vni},tun_src={source},tun_dst={underlay(1)}"


def parse_outputs(trace: str) -> set[str]:
    """Return the outputs in the last line of a trace."""
    return _outputs(re.findall(r"^Datapath actions: (.*)$", trace, re.MULTILINE)[-1])


def _outputs(actions: str) -> set[str]:
    found: set[str] = set()
    vlan, encapsulated = "", False
    for action in _split(actions):
        if match := _CLONE.fullmatch(action):
            found |= _outputs(match[1])
        elif match := _PUSH.match(action):
            found.add(f"{match[2]} {int(match[3], 16)} to {match[1]}")
            encapsulated = True
        elif match := re.match(r"push_vlan\(vid=(\d+)", action):
            vlan = f" vlan {match[1]}"
        elif action == "pop_vlan":
            vlan = ""
        elif "(" not in action and action not in ("drop", "br-phy") and not encapsulated:
            found.add(f"{action}{vlan}")
    return found


def _split(actions: str) -> list[str]:
    """Cut a list of actions at its outer commas."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(actions):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(actions[start:position])
            start = position + 1
    return [*parts, actions[start:]]
