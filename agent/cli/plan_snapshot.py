# SPDX-License-Identifier: Apache-2.0
"""The plan of a saved snapshot, on a switch that is imagined: every port plugged, every bridge there.

For looking at a host's plan on another machine.  It is the daemon's own planning
code; only the numbers that Open vSwitch would have given are made up, and of each
router the first of its gateways is taken for the one in use.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

from agent import preview
from agent.core import naming, service_identity
from agent.core.allocations import allocate
from agent.core.errors import InputError
from agent.core.memo import Memo
from agent.core.model import HostName, HostSnapshot, NetworkType, PluggedInterface, Port, SwitchView
from agent.core.plan import Delta, Plan
from agent.core.snapshot_file import SnapshotFile
from agent.l2.settings import LocalSettings
from agent.l3.state import GatewayState
from agent.planner import build_plan, wanted_claims


def plan_snapshot(path: Path) -> dict[str, object]:
    """Return the plan of the snapshot in *path*, in the form of the status socket's ``/plan``.

    Raises AgentError when the file cannot be used.
    """
    snapshot = SnapshotFile(path, _host_of(path)).load()
    if snapshot is None:
        raise InputError(f"{path}: holds no snapshot that was ever in sync")
    local = _settings_of(snapshot)
    switch = _imagined_switch(snapshot, local)
    numbers, problems = allocate({}, wanted_claims(snapshot, switch, services=local.services))
    plan = build_plan(snapshot, numbers, switch, Memo(), local, _imagined_gateways(snapshot))
    return preview.as_json(snapshot, _as_creations(plan), (*plan.problems, *problems), None)


def _host_of(path: Path) -> HostName:
    """Return the host that the file's first line names."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            _, _, header = stream.readline().partition(" ")
        return HostName(str(json.loads(header)["host"]))
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not a snapshot that an agent has saved") from None


def _settings_of(snapshot: HostSnapshot) -> LocalSettings:
    """Return the host's settings, as far as it has announced them; for the rest the defaults of the configuration."""
    host = snapshot.hosts.get(snapshot.host)
    if host is None:
        return LocalSettings(services=True)
    return LocalSettings(host.tunnel_address, host.encapsulations, host.bridge_mappings, services=True)


def _imagined_switch(snapshot: HostSnapshot, local: LocalSettings) -> SwitchView:
    numbers = count(1)
    interfaces = {
        port.id: PluggedInterface(_device(port), port.id, next(numbers))
        for port in sorted(snapshot.ports.values(), key=lambda port: (port.name, port.id))
    }
    uplinks = [service_identity.DHCP_DEVICE, service_identity.METADATA_DEVICE]
    uplinks += [naming.tunnel_port_name(kind) for kind in NetworkType if kind.is_tunnel]
    uplinks += [naming.patch_port_names(physnet)[0] for physnet in sorted(local.bridge_mappings)]
    legs = [leg.port for router in snapshot.routers.values() for leg in (*router.interfaces, router.gateway) if leg]
    uplinks += [naming.router_link_names(leg, gateway=False)[0] for leg in sorted(legs)]
    return SwitchView(
        connected=True,
        bridges=frozenset({naming.INTEGRATION_BRIDGE, *local.bridge_mappings.values()}),
        interfaces=interfaces,
        ofports={name: next(numbers) for name in uplinks},
        uplinks=dict.fromkeys(local.bridge_mappings.values(), True),
    )


def _imagined_gateways(snapshot: HostSnapshot) -> GatewayState:
    used = {key: next(iter(router.gateway_hosts), None) for key, router in snapshot.routers.items()}
    here = frozenset(key for key, host in used.items() if host == snapshot.host)
    return GatewayState(hosts=used, active=here)


def _device(port: Port) -> str:
    """Return the interface that a port is plugged in as: filters need the hybrid plug."""
    return naming.hybrid_veth_names(port.id)[1] if port.filtered else naming.tap_name(port.id)


def _as_creations(plan: Plan) -> dict[str, Delta]:
    """Return *plan* as the difference from a host on which there is nothing."""
    drivers = sorted({driver for group in plan.groups.values() for driver in group.items})
    deltas = {}
    for driver in drivers:
        wanted = [(group, key) for group in plan.groups.values() for key in group.items.get(driver, {})]
        deltas[driver] = Delta(
            creates={key: group.items[driver][key] for group, key in wanted},
            owners={key: group.object_id for group, key in wanted},
        )
    return deltas
