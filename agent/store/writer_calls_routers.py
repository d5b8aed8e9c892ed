# SPDX-License-Identifier: Apache-2.0
"""The calls of a ``Writer`` about routers, floating IPs, port forwardings, subnet pools and address scopes."""

from __future__ import annotations

from collections.abc import Sequence

from agent.store import writer_kinds, writer_records_routers, writer_routers
from agent.store.document import (
    UNSET,
    AddressScopeFields,
    FixedIpRequest,
    FloatingIpFields,
    PortForwardingFields,
    RouterFields,
    SubnetPoolFields,
    Unset,
)
from agent.store.records import Written
from agent.store.records_routers import (
    AddressScopeRecord,
    FloatingIpRecord,
    PortForwardingRecord,
    RouterRecord,
    SubnetPoolRecord,
)
from agent.store.writer_calls import Calls


class RouterCalls(Calls):
    """What ``Writer`` offers about routing; see there for what each call raises and returns."""

    def create_router(
        self, name: str, fields: RouterFields, *, router_id: str | None = None, claim_name: bool = True
    ) -> Written[RouterRecord]:
        """Make a router and the ports that are its interfaces and gateway."""
        return self._create(writer_kinds.ROUTER, name, fields, router_id, claim_name)

    def set_router(self, ref: str, fields: RouterFields, *, name: str | Unset = UNSET) -> Written[RouterRecord]:
        """Change the given fields of a router, and its name."""
        return self._set(writer_kinds.ROUTER, ref, fields, name)

    def add_router_interfaces(self, ref: str, interfaces: Sequence[FixedIpRequest]) -> Written[RouterRecord]:
        """Connect a router to more subnets, with the gateway's address of each if none is given."""
        return self.write(
            lambda session: writer_records_routers.router_record(
                session, writer_routers.add_interfaces(session, ref, interfaces)
            )
        )

    def remove_router_interfaces(self, ref: str, subnets: Sequence[str]) -> Written[RouterRecord]:
        """Disconnect a router from subnets, by name or id; it must be connected to each."""
        return self.write(
            lambda session: writer_records_routers.router_record(
                session, writer_routers.remove_interfaces(session, ref, subnets)
            )
        )

    def delete_router(self, ref: str) -> Written[RouterRecord]:
        """Delete a router that no floating IP and no port forwarding needs."""
        return self._delete(writer_kinds.ROUTER, ref)

    def get_router(self, ref: str) -> RouterRecord:
        """Return one router, with what hosts say of it."""
        return self.read(lambda view: writer_records_routers.router_record(view, view.find("router", ref)))

    def list_routers(self) -> list[RouterRecord]:
        """Return all routers by name, with what hosts say of them."""
        return self._list("router", writer_records_routers.router_record)

    def create_floating_ip(
        self, address: str, fields: FloatingIpFields, *, floating_ip_id: str | None = None
    ) -> Written[FloatingIpRecord]:
        """Take an address of an external network; an empty *address* means any."""
        return self._create(writer_kinds.FLOATING_IP, address, fields, floating_ip_id, claim_name=False)

    def set_floating_ip(self, ref: str, fields: FloatingIpFields) -> Written[FloatingIpRecord]:
        """Change the given fields of a floating IP (called by its address or id): above all its port."""
        return self._set(writer_kinds.FLOATING_IP, ref, fields, UNSET)

    def delete_floating_ip(self, ref: str) -> Written[FloatingIpRecord]:
        """Give back a floating IP from which no port forwarding leads."""
        return self._delete(writer_kinds.FLOATING_IP, ref)

    def get_floating_ip(self, ref: str) -> FloatingIpRecord:
        """Return one floating IP."""
        return self.read(lambda view: writer_records_routers.floating_ip_record(view, view.find("floating_ip", ref)))

    def list_floating_ips(self) -> list[FloatingIpRecord]:
        """Return all floating IPs by address."""
        return self._list("floating_ip", writer_records_routers.floating_ip_record)

    def create_port_forwarding(
        self, external: str, fields: PortForwardingFields, *, forwarding_id: str | None = None
    ) -> Written[PortForwardingRecord]:
        """Forward *external*, ``ADDRESS:PORT`` or ``ADDRESS:FIRST-LAST``, of a gateway or floating IP."""
        return self._create(writer_kinds.PORT_FORWARDING, external, fields, forwarding_id, claim_name=False)

    def set_port_forwarding(self, ref: str, fields: PortForwardingFields) -> Written[PortForwardingRecord]:
        """Let a port forwarding (``ADDRESS:PORTS/PROTOCOL``, or an id) lead elsewhere."""
        return self._set(writer_kinds.PORT_FORWARDING, ref, fields, UNSET)

    def delete_port_forwarding(self, ref: str) -> Written[PortForwardingRecord]:
        """Delete a port forwarding, and with the last one a floating IP that was made for it."""
        return self._delete(writer_kinds.PORT_FORWARDING, ref)

    def get_port_forwarding(self, ref: str) -> PortForwardingRecord:
        """Return one port forwarding."""
        return self.read(
            lambda view: writer_records_routers.port_forwarding_record(view, view.find("port_forwarding", ref))
        )

    def list_port_forwardings(self) -> list[PortForwardingRecord]:
        """Return all port forwardings by what they take."""
        return self._list("port_forwarding", writer_records_routers.port_forwarding_record)

    def create_subnet_pool(
        self, name: str, fields: SubnetPoolFields, *, pool_id: str | None = None, claim_name: bool = True
    ) -> Written[SubnetPoolRecord]:
        """Make a subnet pool."""
        return self._create(writer_kinds.SUBNET_POOL, name, fields, pool_id, claim_name)

    def set_subnet_pool(
        self, ref: str, fields: SubnetPoolFields, *, name: str | Unset = UNSET
    ) -> Written[SubnetPoolRecord]:
        """Change the given fields of a subnet pool, and its name."""
        return self._set(writer_kinds.SUBNET_POOL, ref, fields, name)

    def delete_subnet_pool(self, ref: str) -> Written[SubnetPoolRecord]:
        """Delete a subnet pool without subnets."""
        return self._delete(writer_kinds.SUBNET_POOL, ref)

    def get_subnet_pool(self, ref: str) -> SubnetPoolRecord:
        """Return one subnet pool."""
        return self.read(lambda view: writer_records_routers.subnet_pool_record(view, view.find("subnet_pool", ref)))

    def list_subnet_pools(self) -> list[SubnetPoolRecord]:
        """Return all subnet pools by name."""
        return self._list("subnet_pool", writer_records_routers.subnet_pool_record)

    def create_address_scope(
        self, name: str, fields: AddressScopeFields, *, scope_id: str | None = None, claim_name: bool = True
    ) -> Written[AddressScopeRecord]:
        """Make an address scope."""
        return self._create(writer_kinds.ADDRESS_SCOPE, name, fields, scope_id, claim_name)

    def set_address_scope(
        self, ref: str, fields: AddressScopeFields, *, name: str | Unset = UNSET
    ) -> Written[AddressScopeRecord]:
        """Change the given fields of an address scope, and its name."""
        return self._set(writer_kinds.ADDRESS_SCOPE, ref, fields, name)

    def delete_address_scope(self, ref: str) -> Written[AddressScopeRecord]:
        """Delete an address scope without subnet pools."""
        return self._delete(writer_kinds.ADDRESS_SCOPE, ref)

    def get_address_scope(self, ref: str) -> AddressScopeRecord:
        """Return one address scope."""
        return self.read(
            lambda view: writer_records_routers.address_scope_record(view, view.find("address_scope", ref))
        )

    def list_address_scopes(self) -> list[AddressScopeRecord]:
        """Return all address scopes by name."""
        return self._list("address_scope", writer_records_routers.address_scope_record)
