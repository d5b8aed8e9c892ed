# SPDX-License-Identifier: Apache-2.0
"""What is in a sandbox and how it is: processes, what each agent says, instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.cli.output import Value, table
from agent.core.errors import AgentError
from agent.sandbox.host import AGENT, SimulatedHost
from agent.sandbox.ovs import DATABASE, SWITCH
from agent.sandbox.responder import RESPONDER
from agent.sandbox.sandbox import Sandbox
from agent.status import client

Json = dict[str, Value]

ANSWER_TIMEOUT = 3.0  # seconds; what an agent does not answer in time is shown as unknown
PROCESSES = (AGENT, RESPONDER, SWITCH, DATABASE)


def collect(sandbox: Sandbox) -> Json:
    """Return everything as plain values.

    A process that does not run has the pid None, and what only a silent agent could
    tell is None.
    """
    with ThreadPoolExecutor(8) as pool:
        both = list(pool.map(_host, sandbox.hosts))
    store = sandbox.store.process()
    return {
        "name": sandbox.name,
        "store": {"address": sandbox.paths.store_address, "pid": None if store is None else store.pid},
        "hosts": [host for host, _ in both],
        "instances": [instance for _, instances in both for instance in instances],
    }


def lines(report: Json) -> list[str]:
    """Return *report* for people."""
    store = _mapping(report["store"])
    state = "does not run" if store["pid"] is None else f"pid {store['pid']}"
    hosts = [
        [host["name"], host["address"], *(_mapping(host["pids"])[name] for name in PROCESSES), _applied(host)]
        for host in _rows(report["hosts"])
    ]
    instances = [
        [instance["name"], instance["host"], instance["network"], _state(instance)]
        for instance in _rows(report["instances"])
    ]
    shown = [f"store {store['address']} ({state})", "", *table(hosts, ["host", "address", *PROCESSES, "revision"])]
    return [*shown, *(["", *table(instances, ["instance", "host", "network", "state"])] if instances else [])]


def _host(host: SimulatedHost) -> tuple[Json, list[Json]]:
    running = host.processes()
    pids: Json = {name: running[name].pid if name in running else None for name in PROCESSES}
    answer: Mapping[str, object] = {}
    ports: Mapping[str, Mapping[str, Value]] = {}
    if AGENT in running:
        answer = _ask(host, "/status")
        ports = {str(port["name"]): port for port in _rows(_ask(host, "/ports").get("ports", []))}
    values: Json = {
        "name": host.name,
        "address": host.address,
        "pids": pids,
        "desired_revision": _number(answer.get("desired_revision")),
        "applied_revision": _number(answer.get("applied_revision")),
    }
    return values, [_instance(host, name, ports.get(name, {})) for name in host.instances()]


def _instance(host: SimulatedHost, name: str, port: Mapping[str, Value]) -> Json:
    return {
        "name": name,
        "host": host.name,
        "port_id": port.get("id"),
        "network": port.get("network_name"),
        "up": port.get("up"),
        "reason": port.get("reason"),
    }


def _ask(host: SimulatedHost, path: str) -> Mapping[str, object]:
    try:
        return client.get(host.paths.agent_socket, path, ANSWER_TIMEOUT)
    except AgentError:
        return {}  # it has just been started, or hangs: the rest of the report is still worth having


def _applied(host: Mapping[str, Value]) -> str:
    if host["applied_revision"] is None:
        return "?"
    if host["applied_revision"] == host["desired_revision"]:
        return f"{host['applied_revision']} applied"
    return f"{host['applied_revision']} applied, {host['desired_revision']} wanted"


def _state(instance: Mapping[str, Value]) -> str:
    if instance["up"] is None:
        return "no port"
    return "up" if instance["up"] else f"down: {instance['reason']}"


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _mapping(value: Value) -> Mapping[str, Value]:
    return value if isinstance(value, Mapping) else {}


def _rows(value: object) -> Sequence[Mapping[str, Value]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []
