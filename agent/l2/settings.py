# SPDX-License-Identifier: Apache-2.0
"""What the operator has configured on this host and layer 2 needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from agent.core.model import NetworkType


@dataclass(frozen=True, slots=True)
class MetadataLimits:
    """What one port may ask of the metadata service, over IPv4 and over IPv6 each.

    ``rate`` requests a second (0: any number) after the first ``burst``; ``connections``
    at the same time.
    """

    rate: float = 50.0
    burst: int = 200
    connections: int = 64


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Settings of this host.

    ``tunnel_address`` is this host's end of all tunnels (IPv4 or IPv6, canonical);
    ``encapsulations`` those that it takes part in; ``bridge_mappings`` physical
    network -> the operator's bridge; ``datapath_type`` of ``br-int`` ("" is the
    kernel's).  ``filters`` tells whether ports can be filtered here, ``services``
    whether DHCP, router advertisements and metadata are answered.
    """

    tunnel_address: str | None = None
    encapsulations: frozenset[NetworkType] = frozenset()
    bridge_mappings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    datapath_type: str = ""
    filters: bool = True
    services: bool = False
    metadata_limits: MetadataLimits = MetadataLimits()
