# SPDX-License-Identifier: Apache-2.0
"""``hostplane plug`` and ``hostplane unplug``: a namespace as the instance of a port."""

from __future__ import annotations

import argparse
import dataclasses
import re
import uuid
from pathlib import Path

from agent.cli import plug_many
from agent.cli.options import Settings, add_common, settings
from agent.cli.output import complain, write_line
from agent.cli.plug_devices import DEFAULT_DEVICE, NETNS_FOLDER, Plug, PortView
from agent.cli.plug_switch import Switch
from agent.cli.plug_view import port_view
from agent.cli.status import host_name
from agent.cli.store import open_store
from agent.core.errors import AgentError, InputError
from agent.store.writer import Writer

_DEVICE = re.compile(r"[^\s/:]{1,15}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``plug``."""
    parser.add_argument("port", metavar="PORT", help="name or id")
    text = "network namespace to plug in: a name below /run/netns, or a path"
    parser.add_argument("--netns", required=True, metavar="NAME", help=text)
    text = f"what the device is called in the namespace ({DEFAULT_DEVICE})"
    parser.add_argument("--device", default=DEFAULT_DEVICE, metavar="NAME", help=text)
    kind = parser.add_mutually_exclusive_group()
    text = "with a Linux bridge between, where filters are; ports with security groups are plugged so by themselves"
    kind.add_argument("--hybrid", action="store_true", help=text)
    kind.add_argument("--direct", action="store_true", help="without one; a port with security groups stays shut then")
    parser.add_argument("--dhcp", action="store_true", help="set no addresses and routes: the instance asks for them")
    _add_switch(parser)
    text = "this host's name, if its agent cannot be asked"
    parser.add_argument("--as-host", metavar="HOST", help=text)
    add_common(parser)
    parser.set_defaults(run=_plug)


def configure_unplug(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``unplug``."""
    parser.add_argument("port", metavar="PORT", help="name or id; the id if the store no longer has the port")
    _add_switch(parser)
    add_common(parser)
    parser.set_defaults(run=_unplug)


def _add_switch(parser: argparse.ArgumentParser) -> None:
    text = "address of the local Open vSwitch's database (where ovs-vsctl finds it, OVS_RUNDIR)"
    parser.add_argument("--ovsdb", metavar="ADDRESS", help=text)


def find_port(writer: Writer, ref: str) -> PortView:
    """Return the port called *ref* (name or id) as it is plugged."""
    port = writer.get_port(ref)
    subnets = {subnet.id: subnet for subnet in writer.list_subnets() if subnet.network == port.network}
    return port_view(port, writer.get_network(port.network), subnets)


def _plug(args: argparse.Namespace) -> int:
    ask = settings(args)
    if not _DEVICE.fullmatch(args.device) or args.device in (".", ".."):
        raise InputError(f"device {args.device}: a device's name has 1 to 15 characters, no space, slash or colon")
    with open_store(ask) as writer:
        view = find_port(writer, args.port)
    _check_host(view, args.as_host, ask)
    if args.direct and view.filtered:
        complain(f"{view.label} has security groups: plugged directly it stays shut; plug it again without --direct")
    if args.dhcp:
        view = dataclasses.replace(view, addresses=(), gateways=())
    netns = Path(args.netns) if "/" in args.netns else NETNS_FOLDER / args.netns
    wish = Plug(view, netns, args.device, args.hybrid or (view.filtered and not args.direct))
    plug_many.plug(wish, Switch(args.ovsdb))
    write_line(f"{view.label} is {args.device} of namespace {netns.name}, {wish.switch_device} on br-int")
    return 0


def _check_host(view: PortView, as_host: str | None, ask: Settings) -> None:
    """Refuse a port of another host: its traffic would go there, not here."""
    try:
        here = as_host or host_name(ask)
    except AgentError as err:
        complain(f"cannot tell whether {view.label} belongs here: {err}")
        return
    if not view.host:
        complain(f"{view.label} has no host, so nothing is forwarded yet: hostplane port set {view.name} --host {here}")
    elif view.host != here:
        raise InputError(f"{view.label}: its host is {view.host}, this one is {here}; plug it there")


def _unplug(args: argparse.Namespace) -> int:
    port_id, label = _identify(args)
    gone = plug_many.unplug(port_id, Switch(args.ovsdb), label)
    write_line(f"{label}: removed {', '.join(gone)}" if gone else f"{label} was not plugged")
    return 0


def _identify(args: argparse.Namespace) -> tuple[str, str]:
    """Return id and label of the port; an id is enough, as the store may be away or the port deleted."""
    try:
        return str(uuid.UUID(args.port)), f"port {args.port}"
    except ValueError:
        pass
    with open_store(settings(args)) as writer:
        try:
            port = writer.get_port(args.port)
        except InputError as err:
            raise InputError(f"{err}; if it was deleted, name it by its id (ovs-vsctl list Interface)") from None
    return port.id, f"port {port.name or port.id}"
