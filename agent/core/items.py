# SPDX-License-Identifier: Apache-2.0
"""What the kernel and Open vSwitch can hold, as values.  Equality is the diff.

Flows are not here: a flow's key is ``table=N,priority=P,<match>`` and its value
the action text, both exactly as ``ovs-ofctl dump-flows --no-stats --no-names``
prints them (``agent.core.openflow`` renders them).  Allocated numbers are keys
``allocation/<kind>/<object>`` of the ``ovs`` driver with the number as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


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

    ``options`` are sorted (key, value) pairs of ``Interface:options``.
    """

    name: str
    bridge: str
    type: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; key ``<name>`` of the ``links`` driver.

    ``kind`` is ``veth`` or ``bridge``.  Of a veth pair each end is an item;
    ``peer`` names the other end.  ``mtu`` in bytes.  ``tx_checksum`` False switches
    transmit checksum offload off (needed on what Open vSwitch reads through
    AF_PACKET).  ``owner`` is the object named in the link's alias
    ``hostplane:<kind>:<uuid>``.  ``up`` is the administrative state.
    """

    name: str
    kind: str
    owner: str
    mtu: int
    peer: str | None = None
    master: str | None = None
    tx_checksum: bool = True
    up: bool = True


Item: TypeAlias = OvsBridge | OvsPort | Link
