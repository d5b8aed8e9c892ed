# SPDX-License-Identifier: Apache-2.0
"""No mass suicide: is a new desired state too much of a loss to be believed at once?"""

from __future__ import annotations

from agent.core import naming
from agent.core.model import HostSnapshot, PortId, Router, SwitchView
from agent.core.report import HoldState


def check(
    accepted: HostSnapshot, new: HostSnapshot, switch: SwitchView, share: float, minimum: int, now: float
) -> HoldState | None:
    """Return why *new* must not be applied, None when it may.

    Counted are the ports of *accepted* that are plugged in now (what a removed port whose
    instance is gone loses is nothing), and by themselves its routers that have a leg here.
    Held is a state that would take away more than *share* (0..1) of either and at least
    *minimum*; at least one, if it is of another database.
    """
    plugged = {port for port in accepted.ports if port in switch.interfaces}
    removed = plugged - new.ports.keys()
    here = {router.id for router in accepted.routers.values() if _has_leg(router, switch)}
    lost = {router for router in here - new.routers.keys() if _is_missed(accepted.routers[router], new)}
    # Another database that does not know our ports is a mistake until somebody says that it is none.
    replaced = bool(accepted.generation) and new.generation != accepted.generation
    least = 1 if replaced else max(minimum, 1)
    counts = ((removed, plugged, "ports plugged in"), (lost, here, "routers"))
    held = [
        f"{len(gone)} of the {len(all_)} {nouns} here"
        for gone, all_, nouns in counts
        if len(gone) >= least and len(gone) > share * len(all_)
    ]
    if not held:
        return None
    text = (
        f"revision {new.revision} would remove {' and '.join(held)}; "
        f"revision {accepted.revision} stays in force until the store has them again "
        "or an operator says 'hostplane hold release'"
    )
    return HoldState(now, new.revision, len(plugged), len(removed), text)


def _has_leg(router: Router, switch: SwitchView) -> bool:
    """Tell whether the switch has a leg of *router*."""
    legs: list[PortId] = [interface.port for interface in router.interfaces]
    if router.gateway is not None:
        legs.append(router.gateway.port)
    return any(naming.router_link_names(leg, gateway=False)[0] in switch.ofports for leg in legs)


def _is_missed(router: Router, new: HostSnapshot) -> bool:
    """Tell whether a router that *new* lacks is one that the host would still have to have.

    One that the host had for its own ports goes with the last of them, and these are counted.
    Gateways of a host that is drained are elsewhere already.
    """
    if new.host in router.gateway_hosts:
        return not (new.host in new.hosts and new.hosts[new.host].drain)
    networks = {interface.network for interface in router.interfaces}
    return any(port.network in networks for port in new.ports.values())
