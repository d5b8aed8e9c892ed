# SPDX-License-Identifier: Apache-2.0
"""What tests of routers share: sandboxes with a router beyond, who has a gateway, a session that must not end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent.cli.plug_view import port_view
from agent.core.errors import AgentError
from agent.sandbox import instances
from agent.sandbox.host import SimulatedHost
from agent.status import client
from agent.store.document import PortFields
from tests.functional.lab import HERE, Lab, eventually

HOLD_DOWN = 1.0  # seconds, so that tests need not wait for the default
ANSWER = 3.0


def new_router_lab(new_lab: Callable[..., Lab], document: str, hosts: int = 3, *, resync: float = 60.0) -> Lab:
    """Return a lab with a router beyond, whose gateways come back soon; all is read back every *resync* seconds."""
    lab = new_lab(hosts, agents=False, external=True)
    for host in lab.sandbox.hosts:
        with host.paths.agent_config.open("a") as config:
            config.write(f"\n[l3]\nhold_down = {HOLD_DOWN}\n\n[pass]\nresync_interval = {resync}\n")
    with ThreadPoolExecutor() as pool:
        list(pool.map(SimulatedHost.start_agent, lab.sandbox.hosts))
    lab.bring_up(document)
    return lab


def routers(lab: Lab, host: str) -> dict[str, Any]:
    """Return what an agent says of routers and gateways; nothing while it says nothing."""
    try:
        return dict(client.get(lab.sandbox.host(host).paths.agent_socket, "/routers", ANSWER))
    except AgentError:
        return {}


def router_on(lab: Lab, host: str, router: str) -> dict[str, Any]:
    """Return what an agent says of one router."""
    return next((each for each in routers(lab, host).get("routers", ()) if each["name"] == router), {})


def page(lab: Lab, host: str, noun: str, name: str) -> dict[str, Any]:
    """Return what an agent says of one router (``router``), or one floating IP (``floating-ip``)."""
    return client.get(lab.sandbox.host(host).paths.agent_socket, f"/{noun}", ANSWER, {"name": name})


def namespace_of(lab: Lab, router: str) -> str:
    """Return the namespace of a router."""
    return f"qrouter-{lab.writer.get_router(router).id}"


def problems(lab: Lab, host: str) -> list[str]:
    """Return what an agent says is wrong with what it is asked for."""
    answer = client.get(lab.sandbox.host(host).paths.agent_socket, "/problems", ANSWER)
    return [str(problem) for problem in answer["problems"]]


def watched(lab: Lab, host: str, peer: str) -> str:
    """Return how *host* sees *peer*, "" if it does not watch it."""
    seen = routers(lab, host).get("gateways", {}).get("watched", ())
    return next((each["state"] for each in seen if each["host"] == peer), "")


def wait_gateway(lab: Lab, router: str, host: str, hosts: Collection[str], timeout: float = 15.0) -> None:
    """Wait until *hosts* agree that the router's gateway is on *host*, and only that one says it has it.

    Those that have nothing to do with the router have nothing to say.
    """

    def agreed() -> bool:
        said = {name: known for name in hosts if (known := router_on(lab, name, router))}
        uses = {each.get("gateway_host") for each in said.values()}
        return uses == {host} and {name for name, each in said.items() if each["active"]} == {host}

    eventually(agreed, f"{', '.join(hosts)} agree that the gateway of {router} is on {host}", timeout)


def wait_converged(lab: Lab, host: str, timeout: float = 30.0) -> None:
    socket = lab.sandbox.host(host).paths.agent_socket
    eventually(lambda: bool(client.get(socket, "/status", ANSWER)["converged"]), f"{host} has converged", timeout)


def move(lab: Lab, port: str, old: str, new: str) -> None:
    """Move a port as a live migration does: plugged at its destination first, then bound there."""
    record = lab.writer.get_port(port)
    network = lab.writer.get_network(record.network)
    subnets = {subnet.id: subnet for subnet in lab.writer.list_subnets()}
    failed = instances.plug_on(lab.sandbox, lab.sandbox.host(new), [port_view(record, network, subnets)])
    assert not failed
    lab.writer.set_port(port, PortFields(host=new))
    lab.output(old, "ip", "netns", "delete", port)


def wait_revision(lab: Lab, revision: int) -> None:
    """Wait until all agents have applied *revision*; they are asked, as what they write to the store may wait."""
    for host in lab.sandbox.hosts:
        socket = host.paths.agent_socket
        eventually(
            lambda socket=socket: client.get(socket, "/status", ANSWER)["applied_revision"] >= revision,  # type: ignore[misc]
            f"{host.name} has applied revision {revision}",
        )


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What a TCP session saw: how many lines were sent and came back, and the longest pause in seconds."""

    sent: int
    returned: int
    longest_gap: float
    peer: str  # who the server thinks that it talks to
    error: str


class Session:
    """One TCP session that sends a line every 10 ms and reads it back, until ``stop``."""

    def __init__(self, lab: Lab, source: str, target: str, address: str, port: int = 7, *, listens: int = 7) -> None:
        program = [sys.executable, str(HERE / "tcp_session.py")]
        self._server = lab.start(target, *program, "serve", str(listens))
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "listening\n"
        self._client = lab.start(source, *program, "talk", address, str(port))
        assert self._client.stdout is not None
        assert self._client.stdout.readline() == "talking\n", f"{source} cannot connect to {address}"

    def give_up(self) -> None:
        """End a session that nothing passes any more."""
        for process in (self._client, self._server):
            process.kill()
            process.communicate()

    def stop(self) -> SessionReport:
        """End the session, and tell how it went."""
        output, _ = self._client.communicate(timeout=30)
        self._server.kill()
        self._server.communicate()
        return SessionReport(**json.loads(output))


def assert_survived(report: SessionReport, what: str) -> None:
    print(f"{what}: TCP session: {report}")
    assert not report.error
    assert report.sent > 0
    assert report.returned == report.sent
