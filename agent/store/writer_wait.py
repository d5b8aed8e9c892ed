# SPDX-License-Identifier: Apache-2.0
"""Waiting until hosts have applied a revision.

A host has applied revision N when ``Host_Status.applied_revision`` is N or more in
the same generation.  That says that everything was tried, not that everything
worked: a port that did not stands in ``Port_Status``.  A router comes in steps (the switch
numbers its devices, gateways find each other), so it is waited for until ``Router_Status``
says that it is ready.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection

from agent.store.connection import StoreBackend
from agent.store.records import Applied, PortFailure, RouterFailure, Written
from agent.store.writer_transaction import read
from agent.store.writer_view import Row, View, atoms, label, scalar

DEFAULT_TIMEOUT = 30.0  # seconds
# How the reason begins that an agent gives for a port whose instance is not there (yet).
NOT_PLUGGED = "not plugged in"


def concerned_hosts(view: View, written: Written[object]) -> frozenset[str]:
    """Return the hosts of ports that a write concerns, and those that it names.

    Ports that it concerns are those on the networks and in the security groups that it
    touched.  Of their hosts those without a ``Host`` row do not count: nobody has ever
    reported from there, and one port bound to a wrong name must not make all later
    waiting on its network time out.  A host that the write itself names does count.
    """
    announced = {scalar(host, "name") for host in view.rows("Host")}
    hosts = {scalar(port, "host") for port in _ports_of(view, written)} & announced
    return frozenset((hosts | written.hosts) - {""})


def concerned_ports(view: View, written: Written[object]) -> frozenset[str]:
    """Return the ports that a write touched, or if it touched none, all of its networks and security groups."""
    if written.ports:
        return written.ports
    return frozenset(str(port.uuid) for port in _ports_of(view, written))


def _ports_of(view: View, written: Written[object]) -> list[Row]:
    if not written.networks and not written.groups:
        return []
    networks = {uuid.UUID(network) for network in written.networks}
    groups = {uuid.UUID(group) for group in written.groups}
    return [
        port
        for port in view.rows("Port")
        if scalar(port, "network") in networks or (groups and not groups.isdisjoint(atoms(port, "security_groups")))
    ]


def wait_applied(
    api: StoreBackend,
    address: str,
    revision: int,
    hosts: Collection[str],
    ports: Collection[str],
    routers: Collection[str],
    timeout: float,
) -> Applied:
    """Wait up to *timeout* seconds for *hosts* to apply *revision* and have *routers*; tell which *ports* failed.

    Raises StoreError when the store itself does not answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        api.replica.changed.clear()
        missing, unready = read(api, address, lambda view: _awaited(view, revision, hosts, routers))
        left = deadline - time.monotonic()
        if not (missing or any(not router.ready for router in unready)) or left <= 0:
            break
        api.replica.changed.wait(left)
    answered = frozenset(hosts) - frozenset(missing)
    failures = read(api, address, lambda view: _failures(view, ports, answered))
    return Applied(revision, tuple(sorted(hosts)), tuple(failures), tuple(missing), tuple(unready))


def _awaited(
    view: View, revision: int, hosts: Collection[str], routers: Collection[str]
) -> tuple[list[str], list[RouterFailure]]:
    """Return the hosts that have not applied *revision*, and what of *routers* does not work on the others."""
    missing = _missing(view, revision, hosts)
    return missing, _router_failures(view, routers, frozenset(hosts) - frozenset(missing))


def _missing(view: View, revision: int, hosts: Collection[str]) -> list[str]:
    row = view.global_row
    generation = None if row is None else row.generation
    there = {
        status.host
        for status in view.rows("Host_Status")
        if status.applied_revision >= revision and generation in status.generation
    }
    return sorted(set(hosts) - there)


def _router_failures(view: View, routers: Collection[str], hosts: Collection[str]) -> list[RouterFailure]:
    """Return the routers that are not ready on one of *hosts*, or leave something out there."""
    failures = []
    for status in view.rows("Router_Status") if routers else ():
        router_id = scalar(status, "router")
        ready = scalar(status, "ready") is not False  # an agent of before 1.4 does not say
        # Who stands by says for whom; of who is active it is something that does not work.
        works = ready and not (status.active and status.reason)
        if works or router_id not in routers or status.host not in hosts:
            continue
        router = view.row("Router", router_id)
        if router is not None and router.admin_state_up:  # one that is to be down has not failed
            failures.append(RouterFailure(router_id, label(router), status.host, status.reason, ready))
    return sorted(failures, key=lambda failure: (failure.name, failure.host))


def _failures(view: View, ports: Collection[str], hosts: Collection[str]) -> list[PortFailure]:
    failures = []
    for port_id in ports:
        port = view.row("Port", port_id)
        # A port that is to be down has not failed.
        if port is None or port.host not in hosts or not (port.admin_state_up and port.network.admin_state_up):
            continue
        status = view.port_status(port_id, port.host)
        # Nor has one whose instance has not been started: the host did all that there was to do.
        if status is None or status.reason.startswith(NOT_PLUGGED):
            continue
        if not status.up or status.reason:
            failures.append(PortFailure(port_id, label(port), port.host, status.reason, status.up))
    return sorted(failures, key=lambda failure: failure.name)
