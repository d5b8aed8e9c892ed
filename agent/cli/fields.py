# SPDX-License-Identifier: Apache-2.0
"""The fields of each noun as data: one table serves the YAML file, the options and the help.

A new field is a line here and an attribute of the noun's class in
``agent.store.document``; a test compares the two.  What a value may be is checked by
the writer; here text only gets its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic

from agent.store.document import (
    AddressGroupFields,
    F,
    HostFields,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    SecurityGroupFields,
    SubnetFields,
)


class Kind(Enum):
    """The type of a field's value."""

    TEXT = auto()
    INTEGER = auto()
    BOOLEAN = auto()
    TEXTS = auto()
    MAPPING = auto()
    NUMBER = auto()
    FIXED_IPS = auto()
    ROUTES = auto()
    METADATA = auto()
    RULES = auto()
    INTERFACES = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    ``nullable`` tells that it can be none.  ``option`` is the option's name without
    dashes where it is not the field's own (lists: the singular); ``negation`` the
    option for "no", "none" or the empty list; ``none_option`` the one for "none" where
    that is not the same as the empty list.
    """

    name: str
    kind: Kind
    help: str
    metavar: str = "TEXT"
    nullable: bool = False
    option: str = ""
    negation: str = ""
    none_option: str = ""

    @property
    def flag(self) -> str | None:
        """The option, with dashes; rules have none, they are added one by one."""
        if self.kind is Kind.RULES:
            return None
        return "--" + (self.option or self.name).replace("_", "-")

    @property
    def negative_flag(self) -> str | None:
        """The option that gives False, none or the empty list, if there is one."""
        if self.negation:
            return "--" + self.negation
        if self.nullable or self.kind not in (Kind.TEXT, Kind.INTEGER, Kind.NUMBER):
            return "--no-" + (self.option or self.name).replace("_", "-")
        return None

    @property
    def none_flag(self) -> str | None:
        """The option that gives none, where another one gives the empty list."""
        return f"--{self.none_option}" if self.none_option else None


@dataclass(frozen=True, slots=True)
class Noun(Generic[F]):
    """A kind of object: its name, its section of the file, its fields, and what a list shows.

    ``short`` is the field that is meant where the file has a list in place of fields.
    ``together`` are fields that stand under one key of the file, by that key and the names that
    they have there.
    """

    name: str
    section: str
    make: Callable[..., F]
    fields: tuple[Field, ...]
    columns: tuple[str, ...]
    short: str = ""
    together: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def metavar(self) -> str:
        """What stands for an object of this kind in the help."""
        return self.name.replace(" ", "_").upper()


def field_of(fields: tuple[Field, ...], name: str) -> Field | None:
    """Return the one of *fields* that is called *name*."""
    return next((field for field in fields if field.name == name), None)


PROJECT = Field("project", Kind.TEXT, "who it belongs to, for information")
EXTERNAL_IDS = Field("external_ids", Kind.MAPPING, "notes of other systems", metavar="KEY=VALUE", option="external_id")
ADMIN_STATE = Field("admin_state_up", Kind.BOOLEAN, "whether it passes traffic", negation="admin-state-down")

NETWORK = Noun(
    name="network",
    section="networks",
    make=NetworkFields,
    fields=(
        Field("type", Kind.TEXT, "local, flat, vlan, vxlan or geneve", metavar="TYPE"),
        Field("segmentation_id", Kind.INTEGER, "VNI or VLAN id; chosen if not given", metavar="ID", nullable=True),
        Field("physnet", Kind.TEXT, "physical network of flat and vlan", metavar="NAME", nullable=True),
        Field("mtu", Kind.INTEGER, "largest IP packet; follows from the type if not given", metavar="BYTES"),
        ADMIN_STATE,
        Field("external", Kind.BOOLEAN, "whether routers reach the outside through it"),
        Field("dns_domain", Kind.TEXT, "domain of its ports' names", metavar="DOMAIN"),
        Field("port_security", Kind.BOOLEAN, "default of new ports: only their own addresses pass"),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "type", "segmentation_id", "physnet", "mtu", "admin_state_up"),
)

SUBNET = Noun(
    name="subnet",
    section="subnets",
    make=SubnetFields,
    fields=(
        Field("network", Kind.TEXT, "network that it is a range of", metavar="NETWORK"),
        Field("cidr", Kind.TEXT, "address range, such as 10.0.0.0/24", metavar="CIDR"),
        Field("subnet_pool", Kind.TEXT, "pool that the range is taken from", metavar="POOL"),
        Field("prefixlen", Kind.INTEGER, "how large a range to take; the pool's default if not given", metavar="BITS"),
        Field("gateway", Kind.TEXT, "address of the default route", metavar="ADDRESS", nullable=True),
        Field("dhcp", Kind.BOOLEAN, "whether DHCP and router advertisements serve it"),
        Field(
            "allocation_pools",
            Kind.TEXTS,
            "range to choose addresses from",
            metavar="FIRST-LAST",
            option="allocation_pool",
        ),
        Field("ipv6_mode", Kind.TEXT, "slaac, dhcpv6-stateful or dhcpv6-stateless", metavar="MODE", nullable=True),
        Field("ipv6_address_mode", Kind.TEXT, "how instances get addresses", metavar="MODE", nullable=True),
        Field("ipv6_ra_mode", Kind.TEXT, "what router advertisements say", metavar="MODE", nullable=True),
        Field("server_address", Kind.TEXT, "what DHCP is answered from; chosen if not given", metavar="ADDRESS"),
        Field("dns", Kind.TEXTS, "name server, the first one first", metavar="ADDRESS"),
        Field(
            "host_routes",
            Kind.ROUTES,
            "route that instances are told: destination=CIDR,nexthop=ADDRESS",
            metavar="ROUTE",
            option="host_route",
        ),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "network", "cidr", "gateway", "dhcp"),
)

PORT = Noun(
    name="port",
    section="ports",
    make=PortFields,
    fields=(
        Field("network", Kind.TEXT, "network that it is on", metavar="NETWORK"),
        Field("host", Kind.TEXT, "hypervisor that it is on; empty for none", metavar="HOST"),
        Field("mac_address", Kind.TEXT, "chosen if not given", metavar="MAC"),
        Field(
            "fixed_ips",
            Kind.FIXED_IPS,
            "an address, or subnet=SUBNET[,address=ADDRESS]",
            metavar="ADDRESS",
            option="fixed_ip",
        ),
        ADMIN_STATE,
        Field("port_security", Kind.BOOLEAN, "whether only its own addresses pass"),
        Field(
            "allowed_address_pairs",
            Kind.TEXTS,
            "CIDR or 'CIDR MAC' that passes as well",
            metavar="PAIR",
            option="allowed_address_pair",
        ),
        Field(
            "security_groups",
            Kind.TEXTS,
            "security group that says what passes; --no-security-groups: only what every instance needs passes, "
            "--no-filter: everything does",
            metavar="GROUP",
            nullable=True,
            option="security_group",
            negation="no-security-groups",
            none_option="no-filter",
        ),
        Field("device_owner", Kind.TEXT, "what kind of thing uses it"),
        Field("device_id", Kind.TEXT, "which thing uses it; by this Nova knows the instance"),
        Field("hostname", Kind.TEXT, "what the instance is told to call itself; empty for host-ADDRESS"),
        Field(
            "dhcp_options",
            Kind.MAPPING,
            "DHCP option by name or number, option6:NAME for DHCPv6",
            metavar="NAME=VALUE",
            option="dhcp_option",
        ),
        Field(
            "metadata",
            Kind.METADATA,
            "of the instance: instance_id, availability_zone, instance_type, meta:NAME; with what files say it is "
            "all of its metadata, in place of what there was",
            metavar="KEY=VALUE",
        ),
        Field("project", Kind.TEXT, "who it belongs to; made without security groups it gets the default one of these"),
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "network", "mac_address", "fixed_ips", "host", "up"),
)

HOST = Noun(
    name="host",
    section="hosts",
    make=HostFields,
    fields=(
        Field("tunnel_address", Kind.TEXT, "where others send tunnel packets", metavar="ADDRESS", nullable=True),
        Field("encapsulations", Kind.TEXTS, "vxlan or geneve", metavar="TYPE", option="encapsulation"),
        Field(
            "bridge_mappings",
            Kind.MAPPING,
            "bridge that leads to a physical network",
            metavar="PHYSNET=BRIDGE",
            option="bridge_mapping",
        ),
        Field("drain", Kind.BOOLEAN, "whether it hands over the gateways that it has"),
        EXTERNAL_IDS,
    ),
    columns=(
        "name",
        "tunnel_address",
        "encapsulations",
        "bridge_mappings",
        "drain",
        "version",
        "applied_revision",
        "heartbeat",
    ),
)

METADATA_SERVICE = Noun(
    name="metadata service",
    section="metadata_service",
    make=MetadataServiceFields,
    fields=(
        Field("url", Kind.TEXT, "base URL of Nova's metadata API, without a path", metavar="URL"),
        Field("secret_file", Kind.TEXT, "file on each host with the secret that Nova shares", metavar="PATH"),
        Field("ca_file", Kind.TEXT, "authorities for https; the system's if not given", "PATH", nullable=True),
        Field("client_cert_file", Kind.TEXT, "certificate to show to Nova", metavar="PATH", nullable=True),
        Field("client_key_file", Kind.TEXT, "and its key", metavar="PATH", nullable=True),
        Field("insecure", Kind.BOOLEAN, "do not look at Nova's certificate", negation="secure"),
        Field(  # --timeout is the command's own
            "timeout",
            Kind.NUMBER,
            "for connecting to Nova and for each answer (60)",
            metavar="SECONDS",
            option="request_timeout",
        ),
        EXTERNAL_IDS,
    ),
    columns=(),
)

RULE_FIELDS = (
    Field("direction", Kind.TEXT, "ingress (what the instance receives) or egress (what it sends)", metavar="WAY"),
    Field("ethertype", Kind.TEXT, "IPv4 or IPv6; both, as far as the rest fits", metavar="TYPE", nullable=True),
    Field("protocol", Kind.TEXT, "name or number; any if not given", metavar="PROTOCOL", nullable=True),
    Field("ports", Kind.TEXT, "destination ports: 80, 8000-8100, or several with commas", "PORTS", nullable=True),
    Field("icmp_type", Kind.INTEGER, "0 to 255; any if not given", metavar="NUMBER", nullable=True),
    Field("icmp_code", Kind.INTEGER, "0 to 255; any if not given", metavar="NUMBER", nullable=True),
    Field("remote_ip_prefix", Kind.TEXT, "addresses of the other side", metavar="CIDR", nullable=True),
    Field("remote_group", Kind.TEXT, "the other side is a port with this security group", "GROUP", nullable=True),
    Field("remote_address_group", Kind.TEXT, "the other side is in this address group", "GROUP", nullable=True),
    Field("description", Kind.TEXT, "what it is for"),
)

SECURITY_GROUP = Noun(
    name="security group",
    section="security_groups",
    make=SecurityGroupFields,
    fields=(
        # A group that is made without any gets the rules that let everything out.
        Field("rules", Kind.RULES, "it allows nothing, what goes out included", negation="no-rules"),
        Field(
            "stateful",
            Kind.BOOLEAN,
            "whether answers pass by themselves (--stateless: they need rules)",
            negation="stateless",
        ),
        Field("description", Kind.TEXT, "what it is for"),
        Field("log", Kind.TEXTS, "packets that are logged: accept, drop; --no-log: none", metavar="WHAT"),
        Field("log_rate", Kind.INTEGER, "at most so many, on each host (100)", metavar="PER-SECOND"),
        Field("log_burst", Kind.INTEGER, "after the first so many (25)", metavar="PACKETS"),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "stateful", "rules", "project", "description"),
    short="rules",
)

ADDRESS_GROUP = Noun(
    name="address group",
    section="address_groups",
    make=AddressGroupFields,
    fields=(
        Field("addresses", Kind.TEXTS, "address or prefix", metavar="CIDR", option="address"),
        Field("description", Kind.TEXT, "what it is for"),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "addresses", "project", "description"),
    short="addresses",
)
