# SPDX-License-Identifier: Apache-2.0
"""The devices that connect a namespace to a port: made, repaired and taken away over netlink.

Direct plug::

    namespace: eth0 ══ veth ══ tap... : br-int

Hybrid plug, for filters on a Linux bridge::

    namespace: eth0 ══ veth ══ tap... : qbr... : qvb... ══ veth ══ qvo... : br-int

Names are the field's (Nova, os-vif), so ownership is the alias ``hostplane:plug:<port
id>`` on every device of ours outside the namespace; a device without it is never
touched.

With Open vSwitch's userspace datapath the frames of an instance also reach the
host's own IP stack through the device.  The host therefore answers no ARP there,
has no IPv6 there, and drops IPv4 whose source is not routed through it (nothing is).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.core import naming
from agent.core.errors import ApplyError, InputError
from agent.namespace import inside, write_setting
from agent.offload import disable_tx_checksum

NETNS_FOLDER = Path("/run/netns")
DEFAULT_DEVICE = "eth0"
ALIAS_KIND = "plug"
RTNH_F_ONLINK = 4
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80

Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class PortView:
    """What a plug needs to know of a port.

    ``addresses`` with their subnet's prefix length (``10.0.0.5/24``); empty: none are
    set and those that the namespace has are left alone.  ``gateways`` are the next
    hops of default routes, at most one of each family; ``mtu`` in bytes.  A port that
    is ``filtered`` passes nothing unless it is plugged with a Linux bridge between.
    """

    id: str
    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    host: str = ""
    filtered: bool = False

    @property
    def label(self) -> str:
        """How messages call the port."""
        return f"port {self.name or self.id}"


@dataclass(frozen=True, slots=True)
class Plug:
    """One wish: this port in that namespace (the path of its file), as *device*."""

    port: PortView
    netns: Path
    device: str = DEFAULT_DEVICE
    hybrid: bool = False

    @property
    def switch_device(self) -> str:
        """The device that becomes a port of ``br-int``."""
        return naming.hybrid_veth_names(self.port.id)[1] if self.hybrid else naming.tap_name(self.port.id)


@contextlib.contextmanager
def netlink() -> Iterator[IPRoute]:
    """Open netlink in the namespace that the calling thread is in now; what the kernel refuses is an ApplyError."""
    # groups=0: without it every change on the host would be queued for us.
    with IPRoute(groups=0) as ip:
        try:
            yield ip
        except NetlinkError as err:
            raise ApplyError(f"the kernel refused: {os.strerror(err.code)}") from err


def connect(ip: IPRoute, plug: Plug) -> bool:
    """Make the devices of *plug*, or set right what is there; *ip* is the host's netlink.

    Returns True if the device for the switch is a new one.  The calling thread visits
    the namespace meanwhile.  Raises InputError where somebody else must decide (a
    foreign device, another namespace), ApplyError where the kernel refused.
    """
    label = plug.port.label
    try:
        with plug.netns.open("rb") as namespace:
            return _connect(ip, plug, namespace.fileno())
    except FileNotFoundError:
        raise InputError(f"{label}: there is no network namespace {plug.netns.name} ({plug.netns})") from None
    except NetlinkError as err:
        raise ApplyError(f"{label}: the kernel refused: {os.strerror(err.code)}") from err
    except ApplyError as err:  # from inside the namespace
        raise ApplyError(f"{label}: {err}") from err
    except OSError as err:
        raise ApplyError(f"{label}: {err.filename or plug.netns}: {err.strerror}") from err


def _connect(ip: IPRoute, plug: Plug, namespace: int) -> bool:
    tap = naming.tap_name(plug.port.id)
    link = _owned(ip, tap, plug.port)
    if link is not None and link.get_attr("IFLA_LINK_NETNSID") is None:
        raise InputError(f"{plug.port.label}: the other end of {tap} is in no namespace but here; unplug it first")
    made = link is None
    if link is None:
        link = _make_veth(ip, plug, namespace)
    elif link.get_attr("IFLA_LINK_NETNSID") != _namespace_id(ip, namespace):
        raise InputError(f"{plug.port.label}: is plugged into {_holder(ip, link)} already; unplug it first")
    _close_host_side(tap)
    alias = naming.link_alias(ALIAS_KIND, plug.port.id)
    ip.link("set", index=link["index"], mtu=plug.port.mtu, state="up", IFLA_IFALIAS=alias)
    _configure_inside(plug, namespace, link.get_attr("IFLA_LINK"))
    if plug.hybrid:
        made = _connect_bridge(ip, plug, link["index"])
    elif link.get_attr("IFLA_MASTER") is not None and _owned(ip, naming.hybrid_bridge_name(plug.port.id), plug.port):
        disconnect_bridge(ip, plug.port)
    return made


def disconnect(ip: IPRoute, port_id: str, label: str) -> list[str]:
    """Delete the devices of a port that are ours; return their names (of each pair the host's end)."""
    view = PortView(port_id, "", "", 0)
    deleted = []
    for name in (naming.tap_name(port_id), naming.hybrid_veth_names(port_id)[0], naming.hybrid_bridge_name(port_id)):
        link = _find(ip, name)
        if link is not None and _is_ours(link, view):
            try:
                ip.link("del", index=link["index"])
            except NetlinkError as err:
                if err.code != errno.ENODEV:
                    raise ApplyError(f"{label}: {name}: the kernel refused: {os.strerror(err.code)}") from err
            deleted.append(name)
    return deleted


def disconnect_bridge(ip: IPRoute, port: PortView) -> None:
    """Delete what a hybrid plug has and a direct one has not; the rest stays."""
    for name in (naming.hybrid_veth_names(port.id)[0], naming.hybrid_bridge_name(port.id)):
        link = _owned(ip, name, port)
        if link is not None:
            ip.link("del", index=link["index"])


def existing(ip: IPRoute, names: list[str], port_id: str) -> tuple[list[str], list[str]]:
    """Return those of *names* that are devices of ours for the port, and those that are somebody else's."""
    view = PortView(port_id, "", "", 0)
    links = [(name, _find(ip, name)) for name in names]
    ours = [name for name, link in links if link is not None and _is_ours(link, view)]
    foreign = [name for name, link in links if link is not None and not _is_ours(link, view)]
    return ours, foreign


# pyroute2 has no types: its messages are read here and nowhere else.


def _find(ip: IPRoute, name: str) -> Any:
    try:
        return next(iter(ip.link("get", ifname=name)), None)
    except NetlinkError as err:
        if err.code == errno.ENODEV:
            return None
        raise


def _is_ours(link: Any, port: PortView) -> bool:
    return bool(link.get_attr("IFLA_IFALIAS") == naming.link_alias(ALIAS_KIND, port.id))


def _owned(ip: IPRoute, name: str, port: PortView) -> Any:
    """Return the device, None if there is none; InputError if it is not ours."""
    link = _find(ip, name)
    if link is not None and not _is_ours(link, port):
        raise InputError(f"{port.label}: the device {name} is there already and was not made by hostplane plug")
    return link


def _namespace_id(ip: IPRoute, namespace: int) -> int | None:
    reply = ip.get_netnsid(fd=namespace)
    return None if reply is None else reply["nsid"]


def _holder(ip: IPRoute, link: Any) -> str:
    """Return what people call the namespace that holds the other end of *link*."""
    wanted = link.get_attr("IFLA_LINK_NETNSID")
    for path in sorted(NETNS_FOLDER.iterdir()) if NETNS_FOLDER.is_dir() else []:
        with contextlib.suppress(OSError, NetlinkError), path.open("rb") as namespace:
            if _namespace_id(ip, namespace.fileno()) == wanted:
                return f"namespace {path.name}"
    return "another namespace"


def _make_veth(ip: IPRoute, plug: Plug, namespace: int) -> Any:
    """Make the pair in one step, its far end in the namespace already: there is no half-made state to find later."""
    port = plug.port
    tap = naming.tap_name(port.id)
    peer = {"ifname": plug.device, "address": port.mac, "mtu": port.mtu, "net_ns_fd": namespace}
    try:
        ip.link("add", ifname=tap, kind="veth", mtu=port.mtu, peer=peer)
    except NetlinkError as err:
        if err.code != errno.EEXIST:
            raise
        text = f"namespace {plug.netns.name} has a device {plug.device} already; name another one with --device"
        raise InputError(f"{port.label}: {text}") from None
    link = _find(ip, tap)
    if link is None:
        raise ApplyError(f"{tap} vanished as soon as it was made")
    return link


def _close_host_side(device: str) -> None:
    """Keep the host's own IP stack from taking part in what passes *device*."""
    write_setting(f"ipv6/conf/{device}/disable_ipv6", "1")
    write_setting(f"ipv4/conf/{device}/arp_ignore", "8")  # answer for no local address
    write_setting(f"ipv4/conf/{device}/rp_filter", "1")
    write_setting(f"ipv4/conf/{device}/forwarding", "0")


def _configure_inside(plug: Plug, namespace: int, index: int) -> None:
    with inside(namespace), netlink() as ip:
        link = next(iter(ip.link("get", index=index)))
        name = link.get_attr("IFLA_IFNAME")
        if name != plug.device:
            text = f"is plugged into namespace {plug.netns.name} as {name} already; unplug it first"
            raise InputError(f"{plug.port.label}: {text}")
        # No duplicate address detection: the store gives each address to one port only,
        # and the instance must not be silent for its first second.
        write_setting(f"ipv6/conf/{name}/accept_dad", "0")
        write_setting(f"ipv6/conf/{name}/dad_transmits", "0")
        disable_tx_checksum(name)
        if link.get_attr("IFLA_ADDRESS") != plug.port.mac:
            ip.link("set", index=index, address=plug.port.mac)
        ip.link("set", index=1, state="up")
        ip.link("set", index=index, mtu=plug.port.mtu, state="up")
        _set_addresses(ip, plug.port, index)
        _set_routes(ip, plug.port, index)


def _set_addresses(ip: IPRoute, port: PortView, index: int) -> None:
    """Set the port's addresses; take away those of its subnets that are not, or no longer, its own."""
    wanted = {ipaddress.ip_interface(text) for text in port.addresses}
    ranges = {address.network for address in wanted}
    present = _addresses(ip, index)
    stale = {address for address in present - wanted if address.network in ranges}
    for address in stale:
        ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    if stale:
        present = _addresses(ip, index)  # with the first address of a prefix the kernel deletes the others
    for address in sorted(wanted - present, key=str):
        extra = {} if address.version == 4 else {"IFA_FLAGS": IFA_F_NODAD}
        ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **extra)


def _addresses(ip: IPRoute, index: int) -> set[Interface]:
    """Return the addresses that were set and not learned."""
    found = set()
    for message in ip.get_addr(index=index):
        if (message.get_attr("IFA_FLAGS") or message["flags"]) & IFA_F_PERMANENT:
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.add(ipaddress.ip_interface(f"{text}/{message['prefixlen']}"))
    return found


def _set_routes(ip: IPRoute, port: PortView, index: int) -> None:
    ranges = [ipaddress.ip_interface(text).network for text in port.addresses]
    for gateway in (ipaddress.ip_address(text) for text in port.gateways):
        link_local = gateway.version == 6 and gateway.is_link_local
        reachable = link_local or any(gateway in network for network in ranges if network.version == gateway.version)
        default = "0.0.0.0/0" if gateway.version == 4 else "::/0"
        ip.route(
            "replace",
            dst=default,
            gateway=str(gateway),
            oif=index,
            # A gateway outside all ranges (a /32 address) is reached on the link nevertheless.
            flags=0 if reachable else RTNH_F_ONLINK,
        )


def _connect_bridge(ip: IPRoute, plug: Plug, tap: int) -> bool:
    """Make or repair bridge and pair of a hybrid plug; return True if the pair is new."""
    port = plug.port
    alias = naming.link_alias(ALIAS_KIND, port.id)
    qbr = naming.hybrid_bridge_name(port.id)
    qvb, qvo = naming.hybrid_veth_names(port.id)
    if _owned(ip, qbr, port) is None:
        ip.link("add", ifname=qbr, kind="bridge")
    made = _owned(ip, qvb, port) is None
    if made:
        if _find(ip, qvo) is not None:
            raise InputError(f"{port.label}: the device {qvo} is there already and was not made by hostplane plug")
        ip.link("add", ifname=qvb, kind="veth", mtu=port.mtu, peer={"ifname": qvo, "mtu": port.mtu})
    bridge = _find(ip, qbr)["index"]
    for name in (qbr, qvb, qvo):
        ip.link("set", index=_find(ip, name)["index"], IFLA_IFALIAS=alias)
        _close_host_side(name)
    ip.link(
        "set",
        index=bridge,
        kind="bridge",
        br_forward_delay=0,
        br_stp_state=0,
        br_ageing_time=0,  # two ports: what comes in on one goes out of the other
        br_mcast_snooping=0,
        br_group_fwd_mask=0,  # spanning tree and the like end here
        # Per bridge: the global switches are turned off by other software, and filters then open silently.
        br_nf_call_iptables=1,
        br_nf_call_ip6tables=1,
    )
    disable_tx_checksum(qvb)  # what Open vSwitch reads through AF_PACKET on qvo was sent here
    for name in (qvb, qvo):
        ip.link("set", index=_find(ip, name)["index"], mtu=port.mtu, state="up")
    for index in (tap, _find(ip, qvb)["index"]):
        ip.link("set", index=index, master=bridge)
    ip.link("set", index=bridge, mtu=port.mtu, state="up")
    return made
