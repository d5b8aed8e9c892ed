# SPDX-License-Identifier: Apache-2.0
"""A network as this host carries it: its number here and the port that leads to others."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core import naming
from agent.core.errors import Actor, Problem
from agent.core.model import Network, NetworkType, SwitchView
from agent.core.plan import ItemRef
from agent.l2.settings import LocalSettings


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A network on this host.

    ``number`` is what ``metadata`` holds in the pipeline.  ``uplink`` is the OpenFlow
    number of the tunnel port of its encapsulation or of the patch port to its
    physical network; None means that it is confined to this host, by its type or
    because of a problem.
    """

    network: Network
    number: int
    uplink: int | None

    @property
    def allocation(self) -> ItemRef:
        """The item that must be in place before anything uses the number."""
        return ItemRef("ovs", naming.allocation_key("network", self.network.id))


def find_uplink(network: Network, settings: LocalSettings, switch: SwitchView) -> int | Problem | None:
    """Return the OpenFlow port that carries *network* to and from this host.

    None if its type needs none, a Problem that says who must act if it is missing.
    """
    if network.type.is_tunnel:
        return _find_tunnel(network, settings, switch)
    if network.type.is_physical:
        return _find_patch(network, settings, switch)
    return None


def _find_tunnel(network: Network, settings: LocalSettings, switch: SwitchView) -> int | Problem:
    kind = network.type.value
    if network.segmentation_id is None:
        return _problem(network, "segmentation_id", f"a {kind} network needs a segmentation id", Actor.CLOUD)
    if settings.tunnel_address is None:
        text = f"this host has no tunnel address ([l2] tunnel_address): its {kind} traffic stays on this host"
        return _problem(network, "tunnel_address", text, Actor.OPERATOR)
    if network.type not in settings.encapsulations:
        text = f"{kind} is not among the encapsulations of this host ([l2] encapsulations)"
        return _problem(network, "encapsulations", text, Actor.OPERATOR)
    return _ofport(network, naming.tunnel_port_name(kind), switch)


def _find_patch(network: Network, settings: LocalSettings, switch: SwitchView) -> int | Problem:
    kind = network.type.value
    if not network.physnet:
        return _problem(network, "physnet", f"a {kind} network needs a physical network", Actor.CLOUD)
    if network.type is NetworkType.VLAN and network.segmentation_id is None:
        return _problem(network, "segmentation_id", "a vlan network needs a VLAN id", Actor.CLOUD)
    bridge = settings.bridge_mappings.get(network.physnet)
    if bridge is None:
        text = f"physical network {network.physnet} is mapped to no bridge of this host ([l2] bridge_mappings)"
        return _problem(network, "physnet", text, Actor.OPERATOR)
    if bridge not in switch.bridges:
        text = f"bridge {bridge} of physical network {network.physnet} does not exist on this host"
        return _problem(network, "physnet", text, Actor.OPERATOR)
    return _ofport(network, naming.patch_port_names(network.physnet)[0], switch)


def _ofport(network: Network, port_name: str, switch: SwitchView) -> int | Problem:
    ofport = switch.ofports.get(port_name)
    if ofport is None or ofport < 1:
        text = f"port {port_name} of {naming.INTEGRATION_BRIDGE} has no OpenFlow number yet"
        return _problem(network, "uplink", text, Actor.NOBODY)
    return ofport


def _problem(network: Network, field: str, text: str, actor: Actor) -> Problem:
    return Problem(f"network:{network.id}", field, f"network {network.name or network.id}: {text}", actor)
