# SPDX-License-Identifier: Apache-2.0
"""``hostplane router``."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from agent.cli.field_options import interface
from agent.cli.objects import Filter, Verbs, of_project, plain
from agent.cli.options import add_common, settings
from agent.cli.output import Row, Value, table
from agent.cli.router_fields import ROUTER
from agent.cli.store import open_store
from agent.cli.waiting import add_wait
from agent.store.document import RouterFields
from agent.store.records_routers import RouterRecord
from agent.store.writer import Writer


def _shown(record: RouterRecord) -> Row:
    """Return everything, interfaces and what hosts say as lines of tables."""
    everything = dict(plain(record))
    row: dict[str, Value] = {name: everything.pop(name) for name in _FIRST}
    addresses = [fixed_ip.address for fixed_ip in record.external_fixed_ips]
    row["gateway"] = [record.external_network_name or "", *addresses] if record.external_network else []
    row["gateway_hosts"] = list(record.gateway_hosts) or ([_NO_HOSTS] if record.external_network else [])
    del everything["gateway"]
    row |= everything
    row["interfaces"] = table(
        [[i.subnet_name, i.address, i.mac_address, i.port] for i in record.interfaces], _INTERFACE
    )
    row["routes"] = [f"{route.destination} via {route.nexthop}" for route in record.routes]
    row["status"] = table([[s.host, s.active, s.ready, _time(s.since), s.reason] for s in record.status], _STATUS)
    return row


def _listed(record: RouterRecord) -> Row:
    names = [interface.subnet_name for interface in record.interfaces]
    return {**_shown(record), "interfaces": names, "gateway_hosts": list(record.gateway_hosts)}


def _time(since: float) -> str:
    return datetime.fromtimestamp(since, UTC).isoformat(sep=" ", timespec="seconds")


_FIRST = ("id", "name", "admin_state_up", "distributed", "ha", "enable_snat")
_NO_HOSTS = "none: nothing leaves but floating IPs"
_INTERFACE = ("subnet", "address", "mac_address", "port")
_STATUS = ("host", "active", "ready", "since", "reason")

VERBS: Verbs[RouterFields, RouterRecord] = Verbs(
    noun=ROUTER,
    list_all=Writer.list_routers,
    get=Writer.get_router,
    create=Writer.create_router,
    change=lambda writer, ref, fields, name: writer.set_router(ref, fields, name=name),
    delete=Writer.delete_router,
    shown=_shown,
    listed=_listed,
    filters=(
        Filter("host", "only those with a gateway there", lambda record, value: value in record.gateway_hosts),
        of_project(),
    ),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = VERBS.configure(parser)
    add = verbs.add_parser("add-interface", help="connect a router to subnets")
    remove = verbs.add_parser("remove-interface", help="disconnect a router from subnets")
    for verb in (add, remove):
        verb.add_argument("ref", metavar=ROUTER.metavar, help="name or id")
    text = "name or id, or subnet=SUBNET,address=ADDRESS for another address than the subnet's gateway"
    add.add_argument("interfaces", metavar="SUBNET", nargs="+", type=interface, help=text)
    add.set_defaults(run=_change, change=Writer.add_router_interfaces)
    remove.add_argument("interfaces", metavar="SUBNET", nargs="+", help="name or id")
    remove.set_defaults(run=_change, change=Writer.remove_router_interfaces)
    for verb in (add, remove):
        add_wait(verb)
        add_common(verb)


def _change(args: argparse.Namespace) -> int:
    with open_store(settings(args)) as writer:
        return VERBS.tell_change(args, writer, args.change(writer, args.ref, tuple(args.interfaces)))
