# SPDX-License-Identifier: Apache-2.0
"""What routers need of layer 2: networks that are carried without a port of this host, and members of floods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.core.model import HostName, NetworkId


@dataclass(frozen=True, slots=True)
class RoutedNetworks:
    """Networks of the routers of this host.

    ``networks`` are carried here even if no instance is on them.  ``members`` are the
    router's legs that hear what is sent to all of a network: (port id, OpenFlow number).
    ``hosts`` are others that have a leg on a network, and so hear it, too.
    """

    networks: tuple[NetworkId, ...] = ()
    members: Mapping[NetworkId, tuple[tuple[str, int], ...]] = field(default_factory=lambda: MappingProxyType({}))
    hosts: Mapping[NetworkId, frozenset[HostName]] = field(default_factory=lambda: MappingProxyType({}))


NOT_ROUTED = RoutedNetworks()
