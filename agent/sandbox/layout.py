# SPDX-License-Identifier: Apache-2.0
"""Where a sandbox keeps what it makes, and how things in it are called.

Everything of sandbox NAME lies below ``/run/hostplane-sandbox/NAME``::

    sandbox.json            what was asked for
    lock                    held by whoever is changing the sandbox
    ns/HOST.net, HOST.mnt   the namespaces, kept alive by a mount each
    ns/underlay.net, .mnt   those of the wires between the hosts and of the store
    ns/upstream.net, .mnt   those of the router beyond the external network
    processes/*.json        process id and start time of what was started
    store.db, store.sock    the store
    HOST/ovs/               Open vSwitch: sockets, database, logs
    HOST/run, HOST/state    the agent's run_dir and state_dir; in the latter the responder's log
    HOST/netns/             the host's /run/netns: one entry an instance
    HOST/packets.json       packets that security groups log
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from agent.core import service_identity
from agent.core.errors import InputError
from agent.core.naming import ROUTER_NAMESPACE

ROOT = Path("/run/hostplane-sandbox")
DEFAULT_NAME = "default"
MAX_HOSTS = 200
EXTERNAL = "external"
PHYSICAL_NETWORKS = ("physnet1", EXTERNAL)
UNDERLAY = "underlay"
LINKS = (UNDERLAY, *PHYSICAL_NETWORKS)  # what a host is connected to
UPSTREAM = "upstream"
TUNNEL_BRIDGE = "br-phy"
UPLINK = "uplink"
UNDERLAY_NETWORK = ipaddress.IPv4Network("198.18.0.0/15")  # set aside for tests of network devices (RFC 2544)

# The longest path below a sandbox must fit a unix socket's address (107 characters).
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The folders and sockets of one simulated host; the same path inside and outside."""

    sandbox: str
    host: str
    root: Path

    @property
    def ovs(self) -> Path:
        """Open vSwitch's folder: its OVS_RUNDIR, OVS_DBDIR, OVS_LOGDIR and OVS_SYSCONFDIR."""
        return self.root / "ovs"

    @property
    def switch_database(self) -> Path:
        """The socket of the host's ``ovsdb-server``."""
        return self.ovs / "db.sock"

    @property
    def run(self) -> Path:
        """The agent's ``run_dir``."""
        return self.root / "run"

    @property
    def state(self) -> Path:
        """The agent's ``state_dir``."""
        return self.root / "state"

    @property
    def agent_socket(self) -> Path:
        """The agent's status socket."""
        return self.run / "agent.sock"

    @property
    def agent_config(self) -> Path:
        """The agent's configuration file."""
        return self.root / "agent.conf"

    @property
    def netns(self) -> Path:
        """What the host sees as ``/run/netns``."""
        return self.root / "netns"

    @property
    def xtables_lock(self) -> Path:
        """What iptables locks: the hosts share no tables, so they must not wait for each other."""
        return self.root / "xtables.lock"

    @property
    def packet_log(self) -> Path:
        """Where the agent writes the packets that security groups log."""
        return self.root / "packets.json"

    def log(self, process: str) -> Path:
        """Where a process of the host writes what it has to say."""
        return self.root / f"{process}.log"


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    """The folder of one sandbox and what lies in it."""

    name: str

    @property
    def root(self) -> Path:
        """The sandbox's folder."""
        return ROOT / self.name

    @property
    def description(self) -> Path:
        """What was asked for, as JSON."""
        return self.root / "sandbox.json"

    @property
    def lock(self) -> Path:
        """Locked by whoever makes, changes or removes the sandbox."""
        return self.root / "lock"

    @property
    def pins(self) -> Path:
        """The folder of the mounts that keep the namespaces."""
        return self.root / "ns"

    @property
    def processes(self) -> Path:
        """The folder of process records."""
        return self.root / "processes"

    @property
    def store_socket(self) -> Path:
        """The store's socket."""
        return self.root / "store.sock"

    @property
    def store_database(self) -> Path:
        """The store's file."""
        return self.root / "store.db"

    @property
    def store_address(self) -> str:
        """The store's address as commands and agents take it."""
        return f"unix:{self.store_socket}"

    def host(self, host: str) -> HostPaths:
        """Return the paths of one host."""
        return HostPaths(self.name, host, self.root / host)


def sandbox_paths(name: str) -> SandboxPaths:
    """Return the paths of sandbox *name*; InputError when it cannot be called so."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"sandbox {name}: name: must be 1 to 24 lower-case letters, digits or hyphens and begin with no hyphen"
        )
    return SandboxPaths(name)


def host_names(count: int) -> tuple[str, ...]:
    """Return ``host1`` .. ``hostN``."""
    if not 1 <= count <= MAX_HOSTS:
        raise InputError(f"sandbox: hosts: {count} is outside 1..{MAX_HOSTS}")
    return tuple(f"host{number}" for number in range(1, count + 1))


def underlay_address(number: int) -> str:
    """Return the underlay address of host *number* (1 and up)."""
    return str(UNDERLAY_NETWORK[number])


def physical_bridge(physnet: str) -> str:
    """Return the operator's bridge of a physical network."""
    return f"br-{physnet}"


def is_agents_namespace(name: str) -> bool:
    """Tell whether a namespace of a host is no instance: it is called like those that agents make."""
    return name == service_identity.NAMESPACE or name.startswith(ROUTER_NAMESPACE)


def wire_name(number: int, link: str) -> str:
    """Return the wires' end of what connects host *number* to one of ``LINKS``."""
    return f"h{number}-{link}"


def check_instance_name(name: str, hosts: tuple[str, ...]) -> None:
    """Raise InputError unless an instance may be called *name* beside these hosts."""
    if name in hosts:
        raise InputError(f"port {name}: name: a host of the sandbox is called so; give the port another name")
    if name == UPSTREAM:
        raise InputError(f"port {name}: name: the router beyond the external network is called so; choose another")
    if is_agents_namespace(name):
        raise InputError(f"port {name}: name: the agent has a namespace called so; give the port another name")
    if name in (".", "..") or not _INSTANCE_NAME.fullmatch(name):
        raise InputError(f"port {name}: name: cannot be the name of a namespace (letters, digits, and _.:@+- inside)")
