# SPDX-License-Identifier: Apache-2.0
"""What is measured on: simulated hosts with a real store, a real switch, and one real agent.

``host1`` runs the agent.  ``host2``, where there is one, has none: the same work is
done there by hand, and that is the floor.
"""

from __future__ import annotations

import contextlib
import os
import time
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
WRITE_SECONDS = 120.0  # 10,000 ports in one transaction take their time
FOREIGN_HOSTS = 10
_STORE = "Hostplane"


@dataclass(slots=True)
class Lab:
    """A sandbox with a network; ``interfaces`` are the ports of ``host1``, in the order in which they were made."""

    sandbox: Sandbox
    writer: Writer
    host: SimulatedHost
    switch: Switch
    bare: Switch
    interfaces: list[Interface] = field(default_factory=list)

    def start_agent(self) -> float:
        """Start the agent of ``host1``; return the seconds until it said that it is ready."""
        begun = time.monotonic()
        self.host.start_agent()
        return time.monotonic() - begun

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
        entries = tuple(Entry(name, PortFields(network=NETWORK, host=HOST)) for name in names)
        self.writer.apply(Document(ports=entries))
        ports = {port.name: port for port in self.writer.list_ports()}
        added = [Interface(ports[name].id, ports[name].mac_address) for name in names]
        self.interfaces += added
        self.switch.make_devices(added)
        self.bare.make_devices(added)
        return added

    def add_foreign_ports(self, count: int) -> None:
        """Make *count* ports on other hosts of the same network."""
        hosts = [f"far{number}" for number in range(1, FOREIGN_HOSTS + 1)]
        far = [
            Entry(name, HostFields(tunnel_address=f"198.19.0.{number}", encapsulations=("vxlan", "geneve")))
            for number, name in enumerate(hosts, 1)
        ]
        present = sum(1 for port in self.writer.list_ports() if port.host in hosts)
        ports = [
            Entry(f"far-vm{number}", PortFields(network=NETWORK, host=hosts[number % FOREIGN_HOSTS]))
            for number in range(present, present + count)
        ]
        self.writer.apply(Document(hosts=tuple(far), ports=tuple(ports)))

    def wait_up(self, interfaces: Iterable[Interface]) -> float:
        """Wait until the store says that these ports are up; return the monotonic time at which it did."""
        return self._wait_status(interfaces, up=True)

    def wait_down(self, interfaces: Iterable[Interface]) -> float:
        """Wait until the store says that these ports are down."""
        return self._wait_status(interfaces, up=False)

    def wait_idle(self, flows: frozenset[str] | None = None) -> None:
        """Wait until the agent has done all that is to be done, and the switch holds *flows* if given."""
        wait_until("the agent converges", lambda: self.status()["converged"] is True, TIMEOUT, pause=0.05)
        if flows is not None:
            wait_until("the flows are as before", lambda: self.switch.flows() == flows, TIMEOUT, pause=0.05)

    def _wait_status(self, interfaces: Iterable[Interface], *, up: bool) -> float:
        ports = [each.port for each in interfaces]

        def done(row: Json) -> bool:
            return row["host"] == HOST and row["up"] is up

        with Database(self.sandbox.paths.store_socket, _STORE).watch("Port_Status", ["port", "host", "up"]) as rows:
            return rows.wait_all("port", ports, done, TIMEOUT)


@contextlib.contextmanager
def lab(suffix: str) -> Iterator[Lab]:
    """Make a lab without ports, its agent not started; take all of it down at the end."""
    name = f"hpbe-{os.getpid()}-{suffix}"
    sandbox = Sandbox.create(name, 2, agents=False)
    try:
        with Writer.connect([sandbox.paths.store_address], timeout=WRITE_SECONDS) as writer:
            writer.apply(
                Document(
                    networks=(Entry(NETWORK, NetworkFields(type="vxlan")),),
                    subnets=(Entry("bench4", SubnetFields(network=NETWORK, cidr="10.0.0.0/16")),),
                )
            )
            host, bare = sandbox.host(HOST), sandbox.host(BARE_HOST)
            yield Lab(sandbox, writer, host, _switch(sandbox, host), _switch(sandbox, bare))
    finally:
        remove(name)


def _switch(sandbox: Sandbox, host: SimulatedHost) -> Switch:
    return Switch(host, sandbox.argv(Place(host), []))


def check_flows(before: frozenset[str], after: frozenset[str], what: str) -> None:
    """Raise ApplyError unless the same flows are there: what was measured was not the end of the work."""
    if before != after:
        difference = sorted(before ^ after)[:5]
        raise ApplyError(f"{what}: the flows changed after all ports were up: {difference}")
