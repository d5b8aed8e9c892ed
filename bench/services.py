# SPDX-License-Identifier: Apache-2.0
"""Labs for what instances ask their host: ports on one network or on many, plugged, each a client that can ask."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import ApplyError
from agent.sandbox.host import SimulatedHost
from agent.store.document import Document, Entry, NetworkFields, PortFields, SubnetFields
from agent.store.writer import Writer
from bench.bare_services import BareServices
from bench.clients import Client, ClientSpace
from bench.figures import RATE, SECONDS, Figure, Params
from bench.lab import HOST, NETWORK, Lab, lab
from bench.options import Options
from bench.processes import companions

MOST = 200  # ports, and networks where there are many
RANGE = "10.0.0.0/16"  # of the one network
OUTSTANDING = 16  # exchanges at a time
EACH = 10  # exchanges of each port in a sample: what a port may ask in a second is limited
REPEATS = 5
STAY = 0.5  # seconds; what is there no longer is a command that the agent runs
NOT_OURS = ("ovsdb-server", "ovs-vswitchd")


@dataclass(slots=True)
class ServiceLab:
    """A lab whose clients are all plugged and up; ``names`` so that no port is made twice."""

    place: Lab
    networks: int
    space: ClientSpace
    clients: list[Client] = field(default_factory=list)
    names: int = 0
    _bare: tuple[BareServices, ClientSpace] | None = None

    @property
    def bare(self) -> tuple[BareServices, ClientSpace]:
        """What serves the same clients on the host without an agent, nothing of it started yet, and they themselves."""
        if self._bare is None:
            host = next(each for each in self.place.sandbox.hosts if each is not self.place.host)
            space = ClientSpace(self.place.sandbox, host)
            space.add(self.clients)
            self.place.bare.make_bridge()
            services = BareServices(self.place.sandbox, host, self.place.bare, RANGE)
            services.connect(self.clients)
            self._bare = services, space
        return self._bare

    @property
    def params(self) -> Params:
        """What figures of this lab are told apart by."""
        return {"networks": self.networks, "ports": len(self.clients)}

    def make(self, count: int, *, networks: int, host: str = HOST) -> list[Client]:
        """Make *count* ports on so many new networks (0: on the lab's first), and their devices; nothing is plugged."""
        first = self.names
        self.names += max(count, networks)
        names = [f"net{first + number}" for number in range(networks)]
        instances = [f"instance{first + number}" for number in range(count)]
        document = Document(
            networks=tuple(Entry(name, NetworkFields(type="vxlan")) for name in names),
            subnets=tuple(
                Entry(f"sub-{name}", SubnetFields(network=name, cidr=_subnet(first + number)))
                for number, name in enumerate(names)
            ),
            ports=tuple(
                Entry(
                    f"asks{first + number}",
                    PortFields(
                        network=names[number % networks] if networks else NETWORK, host=host, device_id=instance
                    ),
                )
                for number, instance in enumerate(instances)
            ),
        )
        wanted = [entry.name for entry in document.ports]
        with Writer.connect([self.place.sandbox.paths.store_address]) as writer:
            writer.apply(document)
            made = {port.name: port for port in writer.list_ports()}
        found = [made[name] for name in wanted]
        clients = [Client(port.device_id, port.id, port.mac_address, port.fixed_ips[0].address) for port in found]
        self.space.add(clients)
        return clients

    def plug(self, clients: Sequence[Client]) -> float:
        """Plug *clients* into the agent's switch; return the time of the commit."""
        return self.place.switch.add_interfaces([each.interface for each in clients])

    def wait_up(self, clients: Sequence[Client]) -> float:
        """Wait until all of *clients* are up; return when the store said so."""
        return self.place.wait_up([each.interface for each in clients])


@contextlib.contextmanager
def service_lab(name: str, networks: int, ports: int, *, external: bool = False) -> Iterator[ServiceLab]:
    """Make a lab with an agent and *ports* clients on so many networks; *external* as of ``lab``."""
    with lab(f"{name}-{networks}", external=external) as place:
        place.start_agent()
        place.switch.wait_for_bridge()
        found = ServiceLab(place, networks, ClientSpace(place.sandbox, place.host))
        found.clients = found.make(ports, networks=networks if networks > 1 else 0)
        found.plug(found.clients)
        found.wait_up(found.clients)
        place.wait_idle()
        yield found


@dataclass(frozen=True, slots=True)
class Series:
    """What came of samples in turn: of each the rate and the times (s) that half, and 99 of 100, did not exceed."""

    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    slowest: list[float] = field(default_factory=list)

    def take(self, what: str, found: Mapping[str, Any]) -> None:
        """Add a sample; ApplyError if anything went wrong in it: then nothing was measured."""
        if found["lost"] or found["wrong"]:
            why = found.get("first_wrong", "")
            raise ApplyError(f"{what}: {found['lost']} were not answered, {found['wrong']} wrongly: {why}")
        self.rates.append(found["done"] / found["seconds"])
        self.medians.append(statistics.median(found["times"]))
        self.slowest.append(percentile(found["times"], 99))

    def figures(self, names: tuple[str, str], params: Params, floor: Series) -> list[Figure]:
        """Return rate, median and p99 beside those of *floor*; *names* are of many and of one."""
        many, one = names
        return [
            Figure(many, RATE, self.rates, params, floor.rates),
            Figure(f"{one}-median", SECONDS, self.medians, params, floor.medians),
            Figure(f"{one}-p99", SECONDS, self.slowest, params, floor.slowest),
        ]


def own_processes(host: SimulatedHost) -> list[int]:
    """Return all processes of *host* that stay but Open vSwitch's, whoever started them."""
    running = host.processes()
    others = {running[name].pid for name in NOT_OURS}
    before = companions(running["agent"].pid)
    time.sleep(STAY)
    return sorted(before & companions(running["agent"].pid) - others)


def percentile(times: Sequence[float], percent: float) -> float:
    """Return the smallest of *times* that so many percent of them do not exceed."""
    ordered = sorted(times)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def sizes(options: Options) -> tuple[int, int]:
    """Return how many ports, which is also the number of many networks, and how many samples to take."""
    return min(options.most, MOST), 1 if options.quick else REPEATS


def _subnet(number: int) -> str:
    high, low = divmod(number, 256)
    return f"10.{64 + high}.{low}.0/24"
