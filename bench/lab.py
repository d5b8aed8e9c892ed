# SPDX-License-Identifier: Apache-2.0
"""What is measured on: simulated hosts with a real store, a real switch, and one real agent.

``host1`` runs the agent.  ``host2``, where there is one, has none: the same work is
done there by hand, and that is the floor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import ApplyError
from agent.sandbox.host import AGENT, SimulatedHost
from agent.sandbox.process import ProcessRecord
from agent.sandbox.sandbox import Place, Sandbox, remove
from agent.sandbox.tools import wait_until
from agent.status import client
from agent.store.document import Document, Entry, HostFields, NetworkFields, PortFields, SubnetFields
from agent.store.writer import Writer
from bench.database import Database, Json
from bench.switch import TIMEOUT, Interface, Switch

NETWORK = "bench"
HOST, BARE_HOST = "host1", "host2"
STORE = "Hostplane"
FOREIGN_HOSTS = 10


@dataclass(slots=True)
class Lab:
    """A sandbox with a network; ``interfaces`` are the ports of ``host1``, in the order in which they were made."""

    sandbox: Sandbox
    host: SimulatedHost
    switch: Switch
    bare: Switch
    interfaces: list[Interface] = field(default_factory=list)

    def start_agent(self) -> None:
        """Start the agent of ``host1``; return when it says that it is ready."""
        self.host.start_agent()

    def stop_agent(self) -> None:
        """End the agent if it runs."""
        self.host.stop_agent()

    def agent(self) -> ProcessRecord:
        """Return the agent's process."""
        return self.host.processes()[AGENT]

    def store(self) -> ProcessRecord:
        """Return the process of the store's server."""
        process = self.sandbox.store.process()
        if process is None:
            raise ApplyError("the store has ended")
        return process

    def status(self) -> dict[str, Any]:
        """Return what the agent's status socket says."""
        return client.get(self.host.paths.agent_socket, "/status")

    def add_ports(self, count: int) -> list[Interface]:
        """Make *count* more ports of ``host1`` and their devices; return them."""
        first = len(self.interfaces) + 1
        names = [f"vm{number}" for number in range(first, first + count)]
        with self._writer() as writer:
            writer.apply(Document(ports=tuple(Entry(name, PortFields(network=NETWORK, host=HOST)) for name in names)))
            ports = {port.name: port for port in writer.list_ports()}
        added = [Interface(ports[name].id, ports[name].mac_address) for name in names]
        self.interfaces += added
        self.switch.make_devices(added)
        self.bare.make_devices(added)
        return added

    def add_foreign_ports(self, count: int) -> None:
        """Make *count* ports on other hosts of the same network; once in a lab."""
        hosts = [f"far{number}" for number in range(1, FOREIGN_HOSTS + 1)]
        entries = [
            Entry(name, HostFields(tunnel_address=f"198.19.0.{number}", encapsulations=("vxlan", "geneve")))
            for number, name in enumerate(hosts, 1)
        ]
        with self._writer() as writer:
            writer.apply(Document(hosts=tuple(entries)))
            network = writer.get_network(NETWORK).id
        operations = [
            operation
            for number in range(count)
            for operation in _insert_port(number, network, hosts[number % FOREIGN_HOSTS])
        ]
        operations.append({"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]})
        with Database(self.sandbox.paths.store_socket, STORE) as database:
            database.transact(operations)

    def wait_up(self, interfaces: Iterable[Interface]) -> float:
        """Wait until the store says that these ports are up; return the monotonic time at which it did."""
        return self._wait_status(interfaces, up=True)

    def wait_down(self, interfaces: Iterable[Interface]) -> float:
        """Wait until the store says that these ports are down."""
        return self._wait_status(interfaces, up=False)

    def wait_idle(self, flows: frozenset[str] | None = None) -> None:
        """Wait until the agent has done all that is to be done, and the switch holds *flows* if given."""
        wait_until("the agent converges", self._is_converged, TIMEOUT)
        if flows is not None:
            wait_until("the flows are as before", lambda: self.switch.flows() == flows, TIMEOUT, pause=0.05)

    def _is_converged(self) -> bool:
        status = self.status()
        return status["converged"] is True and not status["store"]["stale"]

    def _wait_status(self, interfaces: Iterable[Interface], *, up: bool) -> float:
        ports = [each.port for each in interfaces]

        def done(row: Json) -> bool:
            return row["host"] == HOST and row["up"] is up

        with Database(self.sandbox.paths.store_socket, STORE).watch("Port_Status", ["port", "host", "up"]) as rows:
            return rows.wait_all("port", ports, done, TIMEOUT)

    def _writer(self) -> Writer:
        # Not kept: its replica would follow all that the agent reports while that is measured.
        return Writer.connect([self.sandbox.paths.store_address])


@contextlib.contextmanager
def lab(suffix: str, *, external: bool = False) -> Iterator[Lab]:
    """Make a lab without ports, its agent not started; take all of it down at the end.

    With *external* there is a router beyond the external network.
    """
    name = f"hpbe-{os.getpid()}-{suffix}"
    sandbox = Sandbox.create(name, 2, agents=False, external=external)
    try:
        with Writer.connect([sandbox.paths.store_address]) as writer:
            networks = (Entry(NETWORK, NetworkFields(type="vxlan")),)
            subnets = (Entry("bench4", SubnetFields(network=NETWORK, cidr="10.0.0.0/16")),)
            writer.apply(Document(networks=networks, subnets=subnets))
        host, bare = sandbox.host(HOST), sandbox.host(BARE_HOST)
        yield Lab(sandbox, host, _switch(sandbox, host), _switch(sandbox, bare))
    finally:
        remove(name)


def _insert_port(number: int, network: str, host: str) -> list[Json]:
    """Return what inserts a port on another host with the rows that the writer gives it.

    Thousands of ports through the writer would take longer than all that is measured;
    the agent reads the same rows.
    """
    high, low = divmod(number, 256)
    mac, address = f"fa:16:3f:00:{high:02x}:{low:02x}", f"10.0.{128 + high}.{low}"
    name, claim, taken, endpoint = (f"{noun}{number}" for noun in ("far-vm", "name", "address", "endpoint"))
    on_network = {"network": ["uuid", network]}
    return [
        _insert("Name", claim, {"kind": "port", "name": name}),
        _insert("IP_Allocation", taken, {**on_network, "address": address}),
        _insert("Endpoint", endpoint, {**on_network, "mac": mac, "addresses": address, "host": host}),
        _insert(
            "Port",
            f"port{number}",
            {
                **on_network,
                "name": name,
                "name_claim": ["named-uuid", claim],
                "mac_address": mac,
                "ip_allocations": ["named-uuid", taken],
                "endpoint": ["named-uuid", endpoint],
                "host": host,
                "admin_state_up": True,
                "port_security_enabled": True,
            },
        ),
    ]


def _insert(table: str, name: str, row: Json) -> Json:
    return {"op": "insert", "table": table, "row": row, "uuid-name": name}


def _switch(sandbox: Sandbox, host: SimulatedHost) -> Switch:
    return Switch(host, sandbox.argv(Place(host), []))


def check_flows(before: frozenset[str], after: frozenset[str], what: str) -> None:
    """Raise ApplyError unless the same flows are there: what was measured was not the end of the work."""
    if before != after:
        difference = sorted(before ^ after)[:5]
        raise ApplyError(f"{what}: the flows changed after all ports were up: {difference}")
