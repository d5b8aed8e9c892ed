# SPDX-License-Identifier: Apache-2.0
"""The daemon's options as oslo.config describes them: names, defaults and the text of the sample file.

What an operator may read about an option is written here and nowhere else;
``docs/hostplane.conf.sample`` is made from it.  ``agent.config`` turns the values
into frozen dataclasses.
"""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

LOG_LEVELS = {
    "debug": "why each decision was taken",
    "info": "one line for each change of state",
    "warning": "what an operator should look at",
    "error": "what does not work",
}

DEFAULT_OPTIONS: list[Any] = [
    cfg.StrOpt(
        "host",
        sample_default="compute-17",
        help="Name of this host in the store: what Port.host must say for a port to be wired here, and the common "
        "name of the certificate when the store uses role-based access. Empty: the system's host name.",
    ),
    cfg.StrOpt(
        "state_dir",
        default="/var/lib/hostplane",
        help="Directory for what must survive a reboot: the last in-sync snapshot and the embedded store's database.",
    ),
    cfg.StrOpt("run_dir", default="/run/hostplane", help="Directory for sockets and process ids."),
    cfg.StrOpt(
        "log_level",
        default="info",
        choices=list(LOG_LEVELS.items()),
        help="The least severe messages that are logged. Applied on reload (SIGHUP); "
        "'hostplane log-level' changes it until the next reload.",
    ),
    cfg.BoolOpt(
        "start_store",
        default=True,
        help="Start ovsdb-server on state_dir/store.db when [store] connection is empty and no server listens yet. "
        "The systemd unit passes --nostart_store, because there hostplane-store.service runs the server.",
    ),
    cfg.BoolOpt(
        "start_responder",
        default=True,
        help="Start the responder, the process that answers DHCP, router solicitations and metadata requests, when "
        "none listens yet. The systemd unit passes --nostart_responder, because there hostplane-responder.service "
        "runs it.",
    ),
]

STORE_OPTIONS: list[Any] = [
    cfg.ListOpt(
        "connection",
        default=[],
        help="Addresses of the store, all members of one cluster: ssl:HOST:PORT, tcp:HOST:PORT or unix:PATH. "
        "Empty: the embedded store at unix:run_dir/store.sock.",
    ),
    cfg.StrOpt("private_key", help="PEM file with this host's private key; needed for ssl: addresses."),
    cfg.StrOpt("certificate", help="PEM file with this host's certificate; needed for ssl: addresses."),
    cfg.StrOpt(
        "ca_cert", help="PEM file with the authority that signed the store's certificate; needed for ssl: addresses."
    ),
    cfg.FloatOpt(
        "timeout",
        default=10.0,
        min=1,
        max=300,
        help="Seconds that one transaction with the store may take before it counts as failed and is tried again.",
    ),
]

SWITCH_OPTIONS: list[Any] = [
    cfg.StrOpt(
        "ovsdb",
        default="unix:/run/openvswitch/db.sock",
        help="The database of the local Open vSwitch: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT.",
    ),
    cfg.StrOpt(
        "run_dir",
        default="/run/openvswitch",
        help="Directory in which ovs-vswitchd keeps the management socket of each bridge (br-int.mgmt).",
    ),
    cfg.StrOpt(
        "datapath_type",
        default="",
        help="Datapath of br-int: 'system' (kernel) or 'netdev' (userspace); empty leaves the choice to Open vSwitch.",
    ),
]

L2_OPTIONS: list[Any] = [
    cfg.StrOpt(
        "tunnel_address",
        sample_default="192.0.2.17",
        help="Address of this host to which other hosts send encapsulated packets. Empty: ports on vxlan and geneve "
        "networks reach ports on this host only.",
    ),
    cfg.ListOpt("encapsulations", default=["vxlan", "geneve"], help="Encapsulations that this host takes part in."),
    cfg.DictOpt(
        "bridge_mappings",
        default={},
        sample_default="physnet1:br-phy1,external:br-ex",
        help="The operator's bridge behind each physical network, for flat and vlan networks.",
    ),
]

FILTERS_OPTIONS: list[Any] = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Filter the ports that have security groups, with iptables, ipset and nft. Without it such ports stay "
        "shut, and the daemon takes away what it has made there before; it touches nothing else of these.",
    ),
    cfg.StrOpt(
        "backend",
        default="auto",
        choices=[
            ("auto", "whatever the commands iptables-restore and iptables-save are"),
            ("nft", "iptables-nft-restore"),
            ("legacy", "iptables-legacy-restore"),
        ],
        help="Which iptables. All software of a host should use the same one: each filters on its own.",
    ),
    cfg.StrOpt(
        "packet_log",
        sample_default="/var/log/hostplane/packets.json",
        help="File for the packets that security groups log, a JSON object a line. Empty: the daemon's own log.",
    ),
]

RESPONDER_OPTIONS: list[Any] = [
    cfg.BoolOpt(
        "enabled",
        default=True,
        help="Answer DHCP, router solicitations and metadata requests of the ports on this host. Without it the daemon "
        "takes away what it has made for that before.",
    ),
    cfg.StrOpt(
        "user",
        default="hostplane-responder",
        help="System user that the responder becomes, without any capability, when the daemon starts it "
        "(start_responder).",
    ),
]

METADATA_OPTIONS: list[Any] = [
    cfg.FloatOpt(
        "rate",
        default=50.0,
        min=0,
        max=100000,
        help="Metadata requests a second that one port may make over IPv4, and as many over IPv6, after the first "
        "burst; what is more gets 429. 0 does not limit them.",
    ),
    cfg.IntOpt("burst", default=200, min=1, max=100000, help="Metadata requests that a port may make at once."),
    cfg.IntOpt(
        "connections",
        default=64,
        min=1,
        max=4096,
        help="Connections to the metadata service that one port may have at the same time over IPv4, and over IPv6.",
    ),
]

L3_OPTIONS: list[Any] = [
    cfg.FloatOpt(
        "hold_down",
        default=5.0,
        min=0,
        max=3600,
        help="Seconds for which gateways of routers on this host, after they were not usable (start of the host, lost "
        "uplink, drained), leave the work to other hosts before they are used again.",
    ),
    cfg.BoolOpt(
        "preempt",
        default=True,
        help="Take gateways back from hosts that come after this one in a router's order. Without it they stay where "
        "they are until that host fails or is drained.",
    ),
]

PASS_OPTIONS: list[Any] = [
    cfg.FloatOpt(
        "resync_interval",
        default=60.0,
        min=1,
        max=86400,
        help="Seconds within which everything that is ours is read back once from kernel and switch, and repaired.",
    ),
    cfg.FloatOpt(
        "hold_share",
        default=0.5,
        min=0,
        max=1,
        help="A change that takes away more than this share of the local ports at once is held until an operator "
        "releases it ('hostplane hold release'); until then the ports keep forwarding. 1 never holds.",
    ),
    cfg.IntOpt(
        "hold_minimum",
        default=10,
        min=1,
        max=1000000,
        help="A change is held only if it takes away at least this many ports.",
    ),
]

STATUS_OPTIONS: list[Any] = [
    cfg.StrOpt("socket", default="$run_dir/agent.sock", help="The status socket: HTTP and JSON on a unix socket."),
    cfg.StrOpt(
        "socket_group",
        default="hostplane",
        help="Group whose members may use the status socket. Where there is no such group only root may.",
    ),
    cfg.StrOpt(
        "metrics_address",
        default="127.0.0.1",
        help="Address on which Prometheus may scrape /metrics. There is neither encryption nor a password: "
        "keep it on a management network.",
    ),
    cfg.IntOpt("metrics_port", default=9177, min=0, max=65535, help="TCP port of /metrics; 0 switches it off."),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """Return all options by group, as the ``oslo.config.opts`` entry point wants them."""
    return [
        ("DEFAULT", DEFAULT_OPTIONS),
        ("store", STORE_OPTIONS),
        ("switch", SWITCH_OPTIONS),
        ("l2", L2_OPTIONS),
        ("l3", L3_OPTIONS),
        ("filters", FILTERS_OPTIONS),
        ("responder", RESPONDER_OPTIONS),
        ("metadata", METADATA_OPTIONS),
        ("pass", PASS_OPTIONS),
        ("status", STATUS_OPTIONS),
    ]
