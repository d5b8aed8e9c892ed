# SPDX-License-Identifier: Apache-2.0
"""The same job done by others: one dnsmasq and one haproxy in a namespace, as today's agents start them for a network.

Their namespace hangs on the bare host's ``br-int``.  Its flows do the least that a switch can
do: what a client sends goes to the servers, what they send goes to the owner of the MAC
address.  Configured as OpenStack Neutron does it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.core.errors import ApplyError
from agent.core.naming import tap_name
from agent.sandbox.host import SimulatedHost
from agent.sandbox.process import ProcessRecord, start, tail
from agent.sandbox.sandbox import Place, Sandbox
from agent.sandbox.tools import run, wait_until
from bench.clients import METADATA_ADDRESS, Client
from bench.switch import Switch

NAMESPACE = "servers"
DEVICE, INNER = "servers", "servers0"
START_SECONDS = 10.0
_PROXY = """
defaults
    mode http
    option http-server-close
    option forwardfor
    retries 3
    timeout http-request 30s
    timeout connect 30s
    timeout client 32s
    timeout server 32s
    timeout http-keep-alive 30s
listen metadata
    bind {address}:80
    http-request del-header X-Neutron-Router-ID
    http-request set-header X-Neutron-Network-ID bench
    server agent {nova}
"""


class BareServices:
    """dnsmasq and haproxy on the host without an agent, for *clients* of one network."""

    def __init__(self, sandbox: Sandbox, host: SimulatedHost, switch: Switch, network: str) -> None:
        self._sandbox = sandbox
        self._host = host
        self._switch = switch
        self._network = ipaddress.IPv4Network(network)
        self._processes: dict[str, ProcessRecord] = {}

    @property
    def processes(self) -> Mapping[str, ProcessRecord]:
        """What has been started, by name."""
        return self._processes

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._host.paths.root

    def connect(self, clients: Sequence[Client]) -> None:
        """Plug the clients and the servers' namespace into the switch, which is to have its bridge already."""
        enter = self._sandbox.argv(Place(self._host), [])
        run([*enter, "ip", "netns", "add", NAMESPACE])
        run([*enter, "ip", "link", "add", DEVICE, "up", "type", "veth", "peer", "name", INNER, "netns", NAMESPACE])
        settings = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv4.conf.all.rp_filter=0"]
        run([*enter, "ip", "netns", "exec", NAMESPACE, "sysctl", "-q", "-w", *settings])
        run([*enter, "ip", "netns", "exec", NAMESPACE, "ethtool", "-K", INNER, "tx", "off"])
        lines = [
            "link set lo up",
            f"link set {INNER} up",
            f"address add {self._network[-2]}/{self._network.prefixlen} dev {INNER}",
            f"address add {METADATA_ADDRESS}/32 dev {INNER}",
            *(f"neighbor replace {each.address} dev {INNER} lladdr {each.mac} nud permanent" for each in clients),
        ]
        run([*enter, "ip", "-n", NAMESPACE, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
        self._switch.add_device(DEVICE)
        self._switch.add_interfaces([each.interface for each in clients])
        self._switch.wait_for_numbers([each.interface for each in clients])
        flows = [
            'priority=1,actions=output:"servers"',
            'priority=3,in_port="servers",dl_dst=ff:ff:ff:ff:ff:ff,actions=drop',
        ]
        flows += [
            f'priority=2,in_port="servers",dl_dst={each.mac},actions=output:"{tap_name(each.port)}"' for each in clients
        ]
        self._switch.add_named_flows(flows)

    def start_dnsmasq(self, clients: Sequence[Client]) -> None:
        """Start dnsmasq, as one that serves one network, unless it runs; return when it listens."""
        if "dnsmasq" in self._processes:
            return
        hosts = self.folder / "dnsmasq.hosts"
        hosts.write_text(
            "".join(f"{each.mac},host-{each.address.replace('.', '-')},{each.address}\n" for each in clients)
        )
        # It writes all leases after each change and waits for the disk; not for this machine's, which may be anything.
        leases = self.folder / "leases"
        leases.mkdir()
        run(self._sandbox.argv(Place(self._host), ["mount", "-t", "tmpfs", "leases", str(leases)]))
        argv = [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--port=0"),
            *("--user=root", "--bind-interfaces", f"--interface={INNER}", "--except-interface=lo", "--quiet-dhcp"),
            *(f"--dhcp-hostsfile={hosts}", f"--dhcp-leasefile={leases / 'dnsmasq.leases'}"),
            *(f"--dhcp-range={self._network[0]},static,{self._network.netmask},86400s", "--dhcp-authoritative"),
            *(f"--dhcp-lease-max={self._network.num_addresses}", "--dhcp-option-force=option:mtu,1450"),
            *("--dhcp-option=option:router,10.0.0.1", "--dhcp-option=option:dns-server,9.9.9.9"),
            *(f"--dhcp-option=option:classless-static-route,{METADATA_ADDRESS}/32,10.0.0.1", "--domain=example.org"),
            f"--pid-file={self.folder / 'dnsmasq.pid'}",
        ]
        self._start("dnsmasq", argv, "udp", 67)

    def start_haproxy(self, nova: str) -> None:
        """Start haproxy in front of *nova*, an address as haproxy takes it; return when it listens."""
        config = self.folder / "proxy.cfg"
        config.write_text(_PROXY.format(address=METADATA_ADDRESS, nova=nova))
        self._start("haproxy", ["haproxy", "-db", "-f", str(config)], "tcp", 80)

    def _start(self, name: str, argv: Sequence[str], protocol: str, port: int) -> None:
        place = Place(self._host, NAMESPACE)
        log = self._host.paths.log(name)
        record = start(self._sandbox.argv(place, argv), {**os.environ, **self._host.inner_environment()}, log)
        self._processes[name] = record
        listening = self._sandbox.argv(place, ["ss", "-Hnl", f"--{protocol}", f"sport = {port}"])

        def is_ready() -> bool:
            if not record.is_alive():
                raise ApplyError(f"{name} has ended: {tail(log)}")
            return bool(run(listening).strip())

        wait_until(f"{name} listens", is_ready, START_SECONDS, pause=0.05)
