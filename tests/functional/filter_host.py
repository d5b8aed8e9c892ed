# SPDX-License-Identifier: Apache-2.0
"""A host with filtered instances, what may pass between them and what never may, and what filters it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.status import client
from tests.functional.filter_flood import kinds, marked, udp
from tests.functional.filter_packets import Macs, frame
from tests.functional.filter_wire import Station, namespace_of
from tests.functional.lab import Lab, eventually

# "friend" may ping "victim" and ask it on port 8000, "stranger" may send anything but what victim takes;
# nobody lets "jailed" send anything, and "open" would take everything.
DOCUMENT = """
networks:
  blue: {type: vxlan}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
  blue6: {network: blue, cidr: "2001:db8::/64"}
security_groups:
  anything-out:
    - {direction: egress}
  anything-in:
    - {direction: egress}
    - {direction: ingress}
  asked:
    - {direction: egress}
    - {direction: ingress, protocol: icmp, icmp_type: 8}
    - {direction: ingress, ethertype: IPv6, protocol: icmp, icmp_type: 128}
    - {direction: ingress, protocol: tcp, ports: 8000, remote_group: friends}
    - {direction: ingress, protocol: udp, ports: 8000, remote_group: friends}
  friends:
    - {direction: egress}
ports:
  friend:   {network: blue, host: host1, fixed_ips: [10.0.0.11, "2001:db8::11"], security_groups: [friends]}
  stranger: {network: blue, host: host1, fixed_ips: [10.0.0.12, "2001:db8::12"], security_groups: [anything-out]}
  victim:   {network: blue, host: host1, fixed_ips: [10.0.0.13, "2001:db8::13"], security_groups: [asked]}
  jailed:   {network: blue, host: host1, fixed_ips: [10.0.0.14, "2001:db8::14"], security_groups: []}
  open:     {network: blue, host: host1, fixed_ips: [10.0.0.15, "2001:db8::15"], security_groups: [anything-in]}
"""
PORTS = ("friend", "stranger", "victim", "jailed", "open")
VICTIM = "10.0.0.13"
TAP_CHARACTERS = 11


def stations(lab: Lab, ports: Iterable[str] = PORTS) -> list[Station]:
    """Return the instances; all are on one network."""
    return [Station(name, lab.mac(name), lab.address(name), "blue", namespace_of(lab, name)) for name in ports]


def forbidden(lab: Lab, sender: str, receiver: str, port: int = 8001) -> list[tuple[str, bytes]]:
    """Return packets of all kinds from one to another, both families, as the sender's frames."""
    macs = Macs(lab.mac(sender), lab.mac(receiver))
    frames = []
    for version in (4, 6):
        packet = udp(sender, receiver, lab.address(sender, version), lab.address(receiver, version), port)
        frames += [(sender, marked(each, macs)) for each in kinds(packet)]
    return frames


def always_forbidden(lab: Lab) -> list[tuple[str, bytes]]:
    """Return what the filters of two ports never let pass: one on its way in, one on its way out."""
    return forbidden(lab, "stranger", "victim") + forbidden(lab, "jailed", "open")


def devices(lab: Lab, port: str) -> dict[str, str]:
    """Return the devices of a port's hybrid plug by their prefix."""
    return {kind: kind + lab.writer.get_port(port).id[:TAP_CHARACTERS] for kind in ("tap", "qbr", "qvb", "qvo")}


def tables(lab: Lab, host: str = "host1") -> str:
    """Return everything of ours that filters on a host; rules whose order means nothing are sorted."""
    found = []
    for program in ("iptables-save", "ip6tables-save"):
        lines = [re.sub(r" \[\d+:\d+\]$", "", line) for line in lab.output(host, program).splitlines()]
        ours = [line for line in lines if re.search(r"hp-|hp:", line)]
        unordered = [line for line in ours if re.match(r"-A hp-[tg]\b", line)]
        found += [program, *(line for line in ours if line not in unordered), *sorted(unordered)]
    for family in ("inet", "bridge"):
        listing = lab.run(host, "nft", "-s", "list", "table", family, "hostplane").stdout
        # Elements of maps come in any order.
        found += [f"nft {family}", *sorted(re.split(r"[,\n{}]\s*", listing))]
    flags = "for f in /sys/class/net/qbr*/bridge/nf_call_ip*tables; do echo $f $(cat $f); done"
    found += lab.output(host, "sh", "-c", flags).splitlines()
    return "\n".join(found + sets(lab, host))


def sets(lab: Lab, host: str = "host1") -> list[str]:
    """Return the IP sets of ours with their elements."""
    lines = lab.output(host, "ipset", "save").splitlines()
    return sorted(re.sub(r" (hashsize|maxelem|bucketsize|initval) \S+", "", line) for line in lines if " hp-" in line)


def drift(lab: Lab, host: str = "host1") -> float:
    """Return how many items the agent has found changed by others, and put right, of all kinds."""
    page = client.get_text(lab.sandbox.host(host).paths.agent_socket, "/metrics")
    found = re.findall(r"^hostplane_drift_repaired_total\{kind=\"\w+\"\} (\S+)$", page, re.MULTILINE)
    return sum(map(float, found))


def overflowed(lab: Lab, host: str = "host1") -> int:
    """Return how many frames did not fit into the switch's sockets, ever: it was not given the processor in time.

    Open vSwitch's userspace datapath reads its ports through packet sockets that hold a
    quarter of a second of these streams; what a busy machine loses there no filter has seen.
    """
    sockets = lab.output(host, "ss", "--packet", "--memory", "--numeric", "--no-header")
    return sum(int(dropped) for dropped in re.findall(r"skmem:\(.*?,d(\d+)\)", sockets))


def wait_repaired(lab: Lab, before: str, what: str, timeout: float = 5.0) -> None:
    """Wait until everything that filters is as it was *before*."""
    eventually(lambda: tables(lab) == before, f"{what}: repaired", timeout)


def fresh_packets(lab: Lab, sender: str, receiver: str, port: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Return UDP packets without end, IPv4 and IPv6 in turn, each of a connection of its own, with its marker."""
    macs = Macs(lab.mac(sender), lab.mac(receiver))
    ends = [(lab.address(sender, version), lab.address(receiver, version)) for version in (4, 6)]
    for number in itertools.count():
        source, target = ends[number % 2]
        marker = b"allow-%08d" % number
        packet = replace(udp(sender, receiver, source, target, port), source_port=30_000 + number // 2 % 500)
        yield sender, frame(packet, macs, marker), marker
