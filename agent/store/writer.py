# SPDX-License-Identifier: Apache-2.0
"""The API of everyone who writes desired state: commands, declarative files, a cloud's driver.

Each writing call is one OVSDB transaction with one new revision, which it returns; a
call that would change nothing writes nothing.  Several writers at once are safe.
Objects are named by id or, where that is not ambiguous, by name.

Raises everywhere: InputError for what the caller can put right (it names object and
field), StoreError when the store is away or refuses.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from agent.store import (
    declared,
    writer_address_groups,
    writer_kinds,
    writer_metadata,
    writer_records,
    writer_rules,
    writer_wait,
)
from agent.store.connection import DEFAULT_TIMEOUT, TlsFiles, connect
from agent.store.document import (
    UNSET,
    AddressGroupFields,
    Document,
    HostFields,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
    Unset,
)
from agent.store.records import (
    AddressGroupRecord,
    Applied,
    Change,
    HostRecord,
    MetadataServiceRecord,
    NetworkRecord,
    PortRecord,
    SecurityGroupRecord,
    SecurityGroupRuleRecord,
    SubnetRecord,
    Written,
)
from agent.store.writer_calls_routers import RouterCalls

R = TypeVar("R")


class Writer(RouterCalls):
    """A connection to the store that reads and writes all of it; usable from several threads.

    Close it, or use it in a ``with`` statement.  It keeps a replica of the whole
    store, so a long-lived caller makes one and keeps it.
    """

    @classmethod
    def connect(cls, remotes: Sequence[str], tls: TlsFiles | None = None, timeout: float = DEFAULT_TIMEOUT) -> Writer:
        """Connect to the store at *remotes* (one cluster's addresses); *timeout* in seconds holds for each call."""
        return cls(connect(remotes, tls, timeout), ",".join(remotes))

    def close(self) -> None:
        """End the connection."""
        self._api.ovsdb_connection.stop(timeout=5)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Networks

    def create_network(
        self, name: str, fields: NetworkFields, *, network_id: str | None = None, claim_name: bool = True
    ) -> Written[NetworkRecord]:
        """Make a network.

        With *claim_name* no other network can claim that name; a cloud, where names
        repeat, does without.  Without *network_id* it gets a new one.
        """
        return self._create(writer_kinds.NETWORK, name, fields, network_id, claim_name)

    def set_network(self, ref: str, fields: NetworkFields, *, name: str | Unset = UNSET) -> Written[NetworkRecord]:
        """Change the given fields of a network, and its name."""
        return self._set(writer_kinds.NETWORK, ref, fields, name)

    def delete_network(self, ref: str) -> Written[NetworkRecord]:
        """Delete a network without subnets and ports."""
        return self._delete(writer_kinds.NETWORK, ref)

    def get_network(self, ref: str) -> NetworkRecord:
        """Return one network."""
        return self.read(lambda view: writer_records.network_record(view, view.find("network", ref)))

    def list_networks(self) -> list[NetworkRecord]:
        """Return all networks by name."""
        return self._list("network", writer_records.network_record)

    # Subnets

    def create_subnet(
        self, name: str, fields: SubnetFields, *, subnet_id: str | None = None, claim_name: bool = True
    ) -> Written[SubnetRecord]:
        """Make a subnet; see ``create_network`` for the arguments."""
        return self._create(writer_kinds.SUBNET, name, fields, subnet_id, claim_name)

    def set_subnet(self, ref: str, fields: SubnetFields, *, name: str | Unset = UNSET) -> Written[SubnetRecord]:
        """Change the given fields of a subnet, and its name."""
        return self._set(writer_kinds.SUBNET, ref, fields, name)

    def delete_subnet(self, ref: str) -> Written[SubnetRecord]:
        """Delete a subnet from which no port has a chosen address."""
        return self._delete(writer_kinds.SUBNET, ref)

    def get_subnet(self, ref: str) -> SubnetRecord:
        """Return one subnet."""
        return self.read(lambda view: writer_records.subnet_record(view, view.find("subnet", ref)))

    def list_subnets(self) -> list[SubnetRecord]:
        """Return all subnets by name."""
        return self._list("subnet", writer_records.subnet_record)

    # Ports

    def create_port(
        self, name: str, fields: PortFields, *, port_id: str | None = None, claim_name: bool = True
    ) -> Written[PortRecord]:
        """Make a port; see ``create_network`` for the arguments."""
        return self._create(writer_kinds.PORT, name, fields, port_id, claim_name)

    def set_port(self, ref: str, fields: PortFields, *, name: str | Unset = UNSET) -> Written[PortRecord]:
        """Change the given fields of a port, and its name; another host moves it."""
        return self._set(writer_kinds.PORT, ref, fields, name)

    def delete_port(self, ref: str) -> Written[PortRecord]:
        """Delete a port."""
        return self._delete(writer_kinds.PORT, ref)

    def get_port(self, ref: str) -> PortRecord:
        """Return one port, with what its host says of it."""
        return self.read(lambda view: writer_records.port_record(view, view.find("port", ref)))

    def list_ports(self) -> list[PortRecord]:
        """Return all ports by name, with what their hosts say of them."""
        return self._list("port", writer_records.port_record)

    # Security groups

    def create_security_group(
        self, name: str, fields: SecurityGroupFields, *, group_id: str | None = None, claim_name: bool = True
    ) -> Written[SecurityGroupRecord]:
        """Make a security group; see ``create_network`` for the arguments.

        One that is called ``default`` and has a project becomes that project's default group.
        """
        return self._create(writer_kinds.SECURITY_GROUP, name, fields, group_id, claim_name)

    def set_security_group(
        self, ref: str, fields: SecurityGroupFields, *, name: str | Unset = UNSET
    ) -> Written[SecurityGroupRecord]:
        """Change the given fields of a security group, and its name; rules that stay keep their ids."""
        return self._set(writer_kinds.SECURITY_GROUP, ref, fields, name)

    def delete_security_group(self, ref: str) -> Written[SecurityGroupRecord]:
        """Delete a security group that no port has, and the rules of others that refer to it."""
        return self._delete(writer_kinds.SECURITY_GROUP, ref)

    def get_security_group(self, ref: str) -> SecurityGroupRecord:
        """Return one security group with its rules."""
        return self.read(lambda view: writer_records.security_group_record(view, view.find("security_group", ref)))

    def list_security_groups(self) -> list[SecurityGroupRecord]:
        """Return all security groups by name, with their rules."""
        return self._list("security_group", writer_records.security_group_record)

    def add_security_group_rules(
        self, group_ref: str, rules: tuple[RuleFields, ...]
    ) -> Written[tuple[SecurityGroupRuleRecord, ...]]:
        """Add rules to a group; return those that were not there yet."""
        ids: list[uuid.UUID] = []
        return self.write(lambda session: writer_rules.added(session, group_ref, rules, ids))

    def add_security_group_rule(
        self, group_ref: str, rule: RuleFields, *, rule_id: str | None = None
    ) -> Written[tuple[SecurityGroupRuleRecord, ...]]:
        """Add a rule that must be new to the group; with *rule_id* it must come to one of Neutron's."""
        ids: list[uuid.UUID] = []
        return self.write(lambda session: writer_rules.added_one(session, group_ref, rule, rule_id, ids))

    def remove_security_group_rule(self, rule_id: str) -> Written[SecurityGroupRuleRecord]:
        """Take a rule out of its group."""
        return self.write(lambda session: writer_rules.removed(session, rule_id))

    def get_security_group_rule(self, rule_id: str) -> SecurityGroupRuleRecord:
        """Return one rule."""
        return self.read(lambda view: writer_records.rule_record(view, view.find_rule(rule_id)))

    def list_security_group_rules(self, group_ref: str | None = None) -> list[SecurityGroupRuleRecord]:
        """Return the rules of a group, or of all, by group."""
        return self.read(lambda view: writer_records.rule_records(view, group_ref))

    # Address groups

    def create_address_group(
        self, name: str, fields: AddressGroupFields, *, group_id: str | None = None, claim_name: bool = True
    ) -> Written[AddressGroupRecord]:
        """Make an address group; see ``create_network`` for the arguments."""
        return self._create(writer_kinds.ADDRESS_GROUP, name, fields, group_id, claim_name)

    def set_address_group(
        self, ref: str, fields: AddressGroupFields, *, name: str | Unset = UNSET
    ) -> Written[AddressGroupRecord]:
        """Change the given fields of an address group, and its name."""
        return self._set(writer_kinds.ADDRESS_GROUP, ref, fields, name)

    def add_addresses(self, ref: str, addresses: tuple[str, ...]) -> Written[AddressGroupRecord]:
        """Add addresses and prefixes to an address group; those that are there already stay."""
        return self.write(lambda session: writer_address_groups.change_some(session, ref, addresses, ()))

    def remove_addresses(self, ref: str, addresses: tuple[str, ...]) -> Written[AddressGroupRecord]:
        """Take addresses and prefixes out of an address group; each must be there."""
        return self.write(lambda session: writer_address_groups.change_some(session, ref, (), addresses))

    def delete_address_group(self, ref: str) -> Written[AddressGroupRecord]:
        """Delete an address group that no rule refers to."""
        return self._delete(writer_kinds.ADDRESS_GROUP, ref)

    def get_address_group(self, ref: str) -> AddressGroupRecord:
        """Return one address group."""
        return self.read(lambda view: writer_records.address_group_record(view, view.find("address_group", ref)))

    def list_address_groups(self) -> list[AddressGroupRecord]:
        """Return all address groups by name."""
        return self._list("address_group", writer_records.address_group_record)

    # Hosts

    def create_host(self, name: str, fields: HostFields, *, host_id: str | None = None) -> Written[HostRecord]:
        """Announce a host; agents do that by themselves."""
        return self._create(writer_kinds.HOST, name, fields, host_id, claim_name=False)

    def set_host(self, ref: str, fields: HostFields) -> Written[HostRecord]:
        """Change the given fields of a host."""
        return self._set(writer_kinds.HOST, ref, fields, UNSET)

    def delete_host(self, ref: str) -> Written[HostRecord]:
        """Delete a host without ports, and what it reported."""
        return self._delete(writer_kinds.HOST, ref)

    def get_host(self, ref: str) -> HostRecord:
        """Return one host and how far it is."""
        return self.read(lambda view: writer_records.find_host_record(view, ref))

    def list_hosts(self) -> list[HostRecord]:
        """Return all hosts by name, also those that have only reported."""
        return self.read(writer_records.host_records)

    # Metadata

    def get_metadata_service(self) -> MetadataServiceRecord | None:
        """Return the metadata service, None if the store names none."""
        return self.read(writer_metadata.present)

    def set_metadata_service(self, fields: MetadataServiceFields) -> Written[MetadataServiceRecord]:
        """Name the metadata service, or change the given fields of the one that is named."""
        return self.write(lambda session: writer_metadata.named(session, fields))

    def unset_metadata_service(self) -> Written[MetadataServiceRecord | None]:
        """Name no metadata service any more; the result is the one that there was."""
        return self.write(writer_metadata.unset)

    # The store as a whole

    def revision(self) -> tuple[str, int]:
        """Return generation and revision of the store; ("", 0) before the first write."""
        row = self.read(lambda view: (g := view.global_row) and (str(g.generation), int(g.revision)))
        return row or ("", 0)

    def options(self) -> dict[str, str]:
        """Return the settings of the store (``agent.store.writer_options``)."""
        return self.read(lambda view: dict(view.options))

    def set_options(self, options: Mapping[str, str | None]) -> Written[dict[str, str]]:
        """Change settings of the store; None takes one away.  Existing networks keep what they have."""
        return self.write(lambda session: writer_kinds.set_options(session, options))

    def wait_applied(self, written: Written[R], timeout: float = writer_wait.DEFAULT_TIMEOUT) -> Applied:
        """Wait up to *timeout* seconds until the hosts that a write concerns have applied it, and routers are ready."""
        hosts = self.read(lambda view: writer_wait.concerned_hosts(view, written))
        ports = self.read(lambda view: writer_wait.concerned_ports(view, written))
        return self.wait_revision(written.revision, hosts, ports, written.routers, timeout)

    def wait_revision(
        self,
        revision: int,
        hosts: Collection[str],
        ports: Collection[str] = (),
        routers: Collection[str] = (),
        timeout: float = writer_wait.DEFAULT_TIMEOUT,
    ) -> Applied:
        """Wait up to *timeout* seconds until *hosts* have applied *revision* and *routers* (ids) are ready there.

        *ports* (ids) are looked at then.
        """
        return writer_wait.wait_applied(self._api, self._address, revision, hosts, ports, routers, timeout)

    def difference(self, document: Document, set_name: str | None = None, prune: bool = False) -> tuple[Change, ...]:
        """Return what ``apply`` would change, and write nothing."""
        return self.rehearse(lambda session: declared.apply(session, document, set_name, prune))

    def apply(
        self, document: Document, *, set_name: str | None = None, prune: bool = False, dry_run: bool = False
    ) -> Written[tuple[Change, ...]]:
        """Make the store hold what *document* says, in one transaction; see ``agent.store.declared``.

        New objects are marked as made by *set_name*; *prune* deletes those of the set that
        *document* no longer has.  With *dry_run* nothing is written.
        """
        if dry_run:
            changes = self.difference(document, set_name, prune)
            return Written(changes, *self.revision(), changed=False)
        return self.write(lambda session: declared.apply(session, document, set_name, prune))
