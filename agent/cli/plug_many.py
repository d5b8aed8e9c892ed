# SPDX-License-Identifier: Apache-2.0
"""Plug and unplug, one port or hundreds: devices by netlink, then all ports of ``br-int`` in one transaction.

Both run in the network namespace that the calling thread is in, which is the host's,
and both may be repeated: what is right stays, what is not is set right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.cli.plug_devices import Plug, PortView, connect, disconnect, existing, netlink
from agent.cli.plug_switch import Switch, SwitchInterface, SwitchPort
from agent.core import naming
from agent.core.errors import AgentError, ApplyError, InputError


def plug(wish: Plug, switch: Switch) -> None:
    """Connect one namespace to its port.

    Raises InputError where a person must decide (a foreign device, another
    namespace), ApplyError where the kernel or Open vSwitch refused.
    """
    for err in plug_many([wish], switch).values():
        raise err


def plug_many(wishes: Iterable[Plug], switch: Switch, wait: bool = True) -> dict[str, AgentError]:
    """Connect namespaces to their ports; return what failed by port id, {} when all is done.

    With *wait*, ``ovs-vswitchd`` has taken the ports up.  Raises ApplyError when Open
    vSwitch cannot be read or refuses the transaction as a whole.
    """
    failed: dict[str, AgentError] = {}
    plugged: list[Plug] = []
    stale: list[str] = []
    before: dict[str, list[SwitchInterface]] = {}
    for interface in switch.interfaces():
        before.setdefault(interface.port_id, []).append(interface)
    with netlink() as ip:
        for wish in wishes:
            try:
                _make_way(wish, before.get(wish.port.id, ()), switch)
                new = connect(ip, wish)
                plugged.append(wish)
                if new and any(old.device == wish.switch_device for old in before.get(wish.port.id, ())):
                    stale.append(wish.switch_device)
            except AgentError as err:
                failed[wish.port.id] = err
    # The userspace datapath goes on reading the device that had this name before, unless the port is made anew.
    switch.delete(stale)
    switch.add([SwitchPort(wish.switch_device, wish.port.id, wish.port.mac) for wish in plugged], wait)
    if wait and plugged:
        failed.update(_refused(plugged, switch))
    return failed


def unplug(port_id: str, switch: Switch, label: str = "") -> list[str]:
    """Take the devices of a port away; return the names of what was there, [] if nothing was.

    Raises InputError when the port is plugged by somebody else, ApplyError.
    """
    label = label or f"port {port_id}"
    with netlink() as ip:
        on_switch = [interface for interface in switch.interfaces() if interface.port_id == port_id]
        ours, foreign = existing(ip, [interface.device for interface in on_switch], port_id)
        # Where the device is gone only the mark in the database tells whose it was.
        lost = [i.device for i in on_switch if i.ours and i.device not in foreign and i.device not in ours]
        for interface in on_switch:
            if interface.device not in ours and interface.device not in lost:
                raise InputError(f"{label}: {interface.device} was not made by hostplane plug and is left alone")
        switch.delete([*ours, *lost])
        return sorted({*ours, *lost, *disconnect(ip, port_id, label)})


def _make_way(wish: Plug, interfaces: Sequence[SwitchInterface], switch: Switch) -> None:
    """Refuse what somebody else has plugged; take a port of ours that was plugged the other way off the switch."""
    known = {naming.tap_name(wish.port.id), naming.hybrid_veth_names(wish.port.id)[1]}
    for interface in interfaces:
        if interface.device not in known:
            raise InputError(f"{wish.port.label}: is plugged as {interface.device} on br-int already")
        if interface.device != wish.switch_device and interface.ours:
            switch.delete([interface.device])


def _refused(plugged: Sequence[Plug], switch: Switch) -> dict[str, AgentError]:
    """Return an error for each port whose interface Open vSwitch could not open."""
    labels = {wish.switch_device: wish.port for wish in plugged}
    errors: dict[str, AgentError] = {}
    for interface in switch.interfaces():
        port: PortView | None = labels.get(interface.device)
        if port is not None and interface.error:
            errors[port.id] = ApplyError(f"{port.label}: Open vSwitch says: {interface.error}")
    return errors
