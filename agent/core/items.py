# SPDX-License-Identifier: Apache-2.0
"""What the kernel and Open vSwitch can hold, as values.  Equality is the diff.

Flows are not here: a flow's key is ``table=N,priority=P,<match>`` and its value
the action text, both exactly as ``ovs-ofctl dump-flows --no-stats --no-names``
prints them (``agent.core.openflow`` renders them).  Allocated numbers are keys
``allocation/<kind>/<object>`` of the ``ovs`` driver with the number as text.

Sets, chains and zones are text as well:

- ``ipset``: ``<set>`` -> how it was created (``hash:net family inet``).
- ``members``: ``<set> <element>`` -> "", the element as ``ipset save`` prints it.
- ``iptables``: ``<4|6> <table> <chain>`` -> the rules of an ordered chain of ours, a
  line each, as ``iptables-save`` prints them without ``-A <chain> ``; or ``*`` for a
  list chain of ours, in which the order of the rules means nothing and each rule is
  an item of its own, ``<4|6> <table> <chain> <rule>`` -> "".  In a chain that is not
  ours, ``<4|6> <table> <CHAIN> <rule>`` -> ``first``: our one jump, before all others.
- ``netns``: ``<namespace>`` -> whose it is: the alias of its ``lo`` is ``hostplane:netns:<value>``.
- ``routes``, all in namespaces of ours: ``<namespace> address <device> <address>/<length>`` -> "" or ``noprefixroute``;
  ``<namespace> route <prefix>`` -> ``via <next hop> dev <device> [onlink]`` or ``dev <device>``, of several
  next hops each as ``nexthop via <next hop> dev <device>``, sorted, with a blank between;
  ``<namespace> neighbor <device> <address>`` -> the MAC address of a permanent entry;
  ``<namespace> sysctl <name with dots>`` -> its value.
- ``connects``: ``<namespace>`` -> how fast each source may open TCP connections to what listens there:
  ``<number>/second burst <number> packets``.
- ``nat``: as ``iptables``, in namespaces of ours and in any table: ``<namespace> <4|6> <table> <chain>[ <rule>]``.
- ``fallback``: ``<namespace> <floating IP>`` -> the fixed address: both are translated into each other in
  packets of which conntrack does not know the connection.
- ``translations``: ``<namespace> <external address>[ <protocol number> <first port>-<last port>]`` -> the address (and
  ``:<first port>-<last port>``) that stands behind it, or what is seen under it: ``*`` all that has none of its
  own, ``hairpin`` of that only what comes back inside.  Connections that were translated so end when the
  item goes or changes, those that were sent to the external address and not translated so when it comes.
  ``<namespace> <prefix>`` -> ``translated`` or ``kept``: reached by interfaces, without translation; what
  leaves the router from there is translated, or not.
- ``zones``: ``base`` -> ``present``: chains and guard; ``<bridge>`` -> the conntrack zone of what
  comes in on it, followed by `` notrack`` if it is not to be tracked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from agent.core.model import AddressChunk, SecurityGroupRule


@dataclass(frozen=True, slots=True)
class OvsBridge:
    """A bridge of ours; key ``bridge/<name>`` of the ``ovs`` driver.

    ``speaks_openflow`` tells that the version that we speak is among its protocols.
    """

    name: str
    datapath_type: str = ""
    fail_mode: str = "secure"
    speaks_openflow: bool = True


@dataclass(frozen=True, slots=True)
class OvsPort:
    """A port of ours and its one interface; key ``port/<name>`` of the ``ovs`` driver.

    ``options`` are sorted (key, value) pairs of ``Interface:options``, ``bfd`` those of ``Interface:bfd``.
    """

    name: str
    bridge: str
    type: str
    options: tuple[tuple[str, str], ...] = ()
    bfd: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; key ``<name>`` of the ``links`` driver, ``<namespace>/<name>`` in a namespace of ours.

    ``kind`` is ``veth`` or ``bridge``.  Of a veth pair each end is an item; ``peer`` is
    the key of the other end.  ``address`` is the MAC address, None for any.  ``mtu`` in
    bytes.  ``tx_checksum`` False switches transmit checksum offload off (needed on what
    Open vSwitch reads through AF_PACKET).  ``owner`` is the object named in the link's
    alias ``hostplane:<kind>:<uuid>``.  ``up`` is the administrative state.
    """

    name: str
    kind: str
    owner: str
    mtu: int
    peer: str | None = None
    master: str | None = None
    tx_checksum: bool = True
    up: bool = True
    namespace: str = ""
    address: str | None = None


@dataclass(frozen=True, slots=True)
class HybridBridge:
    """The Linux bridge of a hybrid plug; key ``<name>`` of the ``bridges`` driver.

    Bridge and devices belong to who plugged (Nova, ``hostplane plug``): they are never
    made or deleted, only the flags are set.  ``instance`` and ``switch`` are its two
    ports; ``filtered`` tells that the bridge's own ``nf_call_iptables`` and
    ``nf_call_ip6tables`` are set.
    """

    name: str
    instance: str
    switch: str
    filtered: bool = True


@dataclass(frozen=True, slots=True)
class ZoneFilter:
    """Whose connections a conntrack zone holds, and what allows them; key ``zone <number>`` of ``conntrack``.

    ``groups`` are the ids of the security groups, keys ``group <id>``; ``addresses``
    what the port may send from (canonical addresses or CIDRs); ``open`` tells that
    everything is allowed.
    """

    zone: int
    port: str
    addresses: tuple[str, ...]
    groups: tuple[str, ...]
    open: bool = False


@dataclass(frozen=True, slots=True)
class GroupRules:
    """The rules that connections are judged by; key ``group <id>`` of the ``conntrack`` driver."""

    rules: tuple[SecurityGroupRule, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """What the responder knows under a key (see ``agent.responder.protocol``); key of the ``responder`` driver.

    ``data`` is JSON text, whose ``digest`` stands for it when items are compared, and in logs:
    there may be passwords in user data.
    """

    digest: str
    data: str = field(default="", compare=False, repr=False)


class SocketKind(StrEnum):
    """What the responder reads from a socket."""

    FRAMES = "frames"  # packet(7): DHCP, router and neighbor solicitations
    METADATA = "metadata"  # a listening TCP socket


@dataclass(frozen=True, slots=True)
class ResponderSocket:
    """A socket that we open and the responder reads; key ``socket <name>`` of the ``responder`` driver.

    On ``device`` of ``namespace``; of METADATA ``address`` and ``port`` are where it listens.
    """

    kind: SocketKind
    namespace: str
    device: str
    address: str = ""
    port: int = 0


# ``AddressChunk`` itself is the value of key ``members <owner>/<chunk>`` of ``conntrack``.
Item: TypeAlias = (
    OvsBridge | OvsPort | Link | HybridBridge | ZoneFilter | GroupRules | AddressChunk | Served | ResponderSocket
)
