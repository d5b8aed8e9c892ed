# SPDX-License-Identifier: Apache-2.0
"""A store that is filled with routers row by row, as a cloud's driver would, or a careless one."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterable
from typing import Any

from tests.servers import StoreServer

Operation = dict[str, Any]
STEP: Operation = {"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]}


def ref(row: str) -> list[str]:
    return ["uuid", row]


def refs(rows: Iterable[str]) -> list[Any]:
    return ["set", [ref(row) for row in rows]]


def text_map(values: dict[Any, Any]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def some(values: Iterable[str]) -> list[Any]:
    return ["set", list(values)]


class RouterStore:
    """Writes rows with ids of its own choosing; every ``commit`` is one transaction and one revision."""

    def __init__(self, server: StoreServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server.address.removeprefix("unix:"))
        self._decoder = json.JSONDecoder()
        self._operations: list[Operation] = []
        self._addresses = 0
        self.revision = 0
        self.transact({"op": "insert", "table": "Global", "row": {"generation": ref(str(uuid.uuid4()))}})

    def close(self) -> None:
        self._socket.close()

    def select(self, table: str, *columns: str) -> list[Operation]:
        """Return these columns of all rows."""
        (rows,) = self.transact({"op": "select", "table": table, "where": [], "columns": list(columns)})
        found: list[Operation] = rows["rows"]
        return found

    def transact(self, *operations: Operation) -> list[Operation]:
        """Run *operations* in one transaction, and return the result of each."""
        request = {"method": "transact", "params": ["Hostplane", *operations], "id": 1}
        self._socket.sendall(json.dumps(request).encode())
        received = b""
        while True:
            received += self._socket.recv(1 << 20)
            try:
                reply, _ = self._decoder.raw_decode(received.decode())
                break
            except ValueError:
                continue
        assert reply["error"] is None, reply
        results: list[Operation] = reply["result"]
        assert not [result for result in results if result and "error" in result], reply
        return results

    def commit(self) -> None:
        """Write what was said since the last time."""
        operations, self._operations = self._operations, []
        self.transact(*operations, STEP)
        self.revision += 1

    def insert(self, table: str, row: Operation) -> str:
        key = str(uuid.uuid4())
        self._operations.append({"op": "insert", "table": table, "uuid": key, "row": row})
        return key

    def update(self, table: str, key: str, **columns: Any) -> None:
        where = [["_uuid", "==", ref(key)]]
        self._operations.append({"op": "update", "table": table, "where": where, "row": columns})

    def delete(self, table: str, key: str) -> None:
        self._operations.append({"op": "delete", "table": table, "where": [["_uuid", "==", ref(key)]]})

    def network(self, name: str, kind: str = "vxlan", **columns: Any) -> str:
        segment = {"segmentation_id": 5000 + len(self._operations)} if kind == "vxlan" else {"physnet": "external"}
        row = {"name": name, "type": kind, "mtu": 1450, "admin_state_up": True, **segment, **columns}
        return self.insert("Network", row)

    def subnet(self, name: str, network: str, cidr: str, **columns: Any) -> str:
        return self.insert("Subnet", {"name": name, "network": ref(network), "cidr": cidr, **columns})

    def port(self, name: str, network: str, host: str, **columns: Any) -> str:
        mac = self.mac()
        endpoint = self.insert("Endpoint", {"network": ref(network), "mac": mac, "host": host})
        row = {"name": name, "network": ref(network), "mac_address": mac, "host": host, **columns}
        return self.insert("Port", {"admin_state_up": True, "endpoint": ref(endpoint), **row})

    def router(self, name: str, networks: Iterable[str] = (), hosts: Iterable[str] = (), **columns: Any) -> str:
        """Insert a router that has these networks, the external one included, and these gateway hosts."""
        hosts = list(hosts)
        row = {"name": name, "networks": refs(networks), "hosts": some(dict.fromkeys(hosts)), **columns}
        row |= {"gateway_hosts": text_map(dict(enumerate(hosts)))}
        return self.insert("Router", {"admin_state_up": True, "ha": True, "enable_snat": True, **row})

    def leg(self, router: str, network: str, addresses: dict[str, str], *, gateway: bool = False, **more: Any) -> str:
        """Insert a port of a router; *addresses* are by address, with the subnet of each."""
        owner = "network:router_gateway" if gateway else "network:router_interface"
        fixed_ips = ["map", [[address, ref(subnet)] for address, subnet in addresses.items()]]
        return self.port("", network, "", device_owner=owner, device_id=router, fixed_ips=fixed_ips, **more)

    def floating_ip(self, address: str, network: str, **columns: Any) -> str:
        row = {"floating_ip_address": address, "floating_network": ref(network), "mac_address": self.mac(), **columns}
        return self.insert("Floating_IP", row)

    def associated(self, address: str, network: str, router: str, port: str, inner: str, fixed: str, host: str) -> str:
        """Insert a floating IP that stands for *fixed*, an address of *port* on network *inner*."""
        return self.floating_ip(
            address, network, router=ref(router), port=ref(port), port_network=ref(inner), fixed_ip_address=fixed,
            host=host,
        )  # fmt: skip

    def forwarding(self, router: str, external: str, ports: range, port: str, internal: str, first: int) -> str:
        """Insert a port forwarding of TCP."""
        row = {"router": ref(router), "protocol": 6, "external_ip_address": external, "port": ref(port)}
        row |= {"external_port_min": ports[0], "external_port_max": ports[-1], "internal_ip_address": internal}
        row |= {"internal_port_min": first, "internal_port_max": first + len(ports) - 1}
        return self.insert("Port_Forwarding", row)

    def mac(self) -> str:
        self._addresses += 1
        return "fa:16:" + self._addresses.to_bytes(4).hex(":")
