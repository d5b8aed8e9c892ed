# SPDX-License-Identifier: Apache-2.0
"""What a host reads of what instances are told: all of it, and what makes no sense left out and named."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import Actor
from agent.core.model import HostSnapshot, MetadataService, Network, Port, Subnet
from agent.store.document import HostRoute, MetadataServiceFields, NetworkFields, PortFields, SubnetFields
from agent.store.writer import Writer
from tests.followed import Followed
from tests.servers import StoreServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as running:
        yield running


@pytest.fixture
def writer(server: StoreServer) -> Iterator[Writer]:
    """A writer on a store with all that can be said of a port of host1."""
    with Writer.connect([server.address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan", dns_domain="blue.example."))
        routes = (HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("10.8.0.0/16", "10.0.0.9"))
        dns = ("192.0.2.9", "10.0.0.2", "2001:db8::53")
        writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24", dns=dns, host_routes=routes))
        fields = PortFields(
            network="blue",
            host="host1",
            device_id="i-1",
            project="red",
            security_groups=None,
            hostname="web",
            dhcp_options={"mtu": "1400", "option6:59": "http://a/"},
            metadata={"user_data": "#cloud-config", "meta:role": "web"},
        )
        writer.create_port("vm1", fields)
        yield writer


@pytest.fixture
def followed(server: StoreServer, writer: Writer) -> Iterator[Followed]:
    reading = Followed(server.address, "host1")
    yield reading
    reading.stop()


def the_port(snapshot: HostSnapshot) -> Port:
    (port,) = snapshot.ports.values()
    return port


def the_subnet(snapshot: HostSnapshot) -> Subnet:
    ((subnet,),) = snapshot.subnets.values()
    return subnet


def test_all_that_was_written_is_read(followed: Followed) -> None:
    snapshot = followed.until(lambda s: s.ports)
    (network,) = snapshot.networks.values()
    assert network.dns_domain == "blue.example"
    subnet, port = the_subnet(snapshot), the_port(snapshot)
    assert subnet.server_address == "10.0.0.254"
    assert subnet.dns_servers == ("192.0.2.9", "10.0.0.2", "2001:db8::53")
    assert subnet.host_routes == (("10.8.0.0/16", "10.0.0.9"), ("10.9.0.0/16", "10.0.0.9"))
    assert (port.device_id, port.project, port.hostname) == ("i-1", "red", "web")
    assert port.dhcp_options == (("mtu", "1400"), ("option6:59", "http://a/"))
    assert port.metadata == (("meta:role", "web"), ("user_data", "#cloud-config"))
    assert snapshot.metadata_service is None
    assert snapshot.problems == ()


def test_the_metadata_service_reaches_every_host_and_stays_the_same_object(followed: Followed, writer: Writer) -> None:
    followed.until(lambda s: s.ports)
    fields = MetadataServiceFields(url="https://nova:8775", secret_file="/secret", timeout=2.5)
    revision = writer.set_metadata_service(fields).revision
    snapshot = followed.until(lambda s: s.revision == revision)
    assert snapshot.metadata_service == MetadataService("https://nova:8775", "/secret", timeout=2.5)
    revision = writer.set_port("vm1", PortFields(hostname="db")).revision
    later = followed.until(lambda s: s.revision == revision)
    assert later.metadata_service is snapshot.metadata_service
    revision = writer.unset_metadata_service().revision
    assert followed.until(lambda s: s.revision == revision).metadata_service is None


def update(server: StoreServer, table: str, row: dict[str, object]) -> None:
    """Write past the writer, as a cloud with a bug would."""
    request = json.dumps(["Hostplane", {"op": "update", "table": table, "where": [], "row": row}])
    reply = subprocess.run(
        ["ovsdb-client", "transact", server.address, request], check=True, capture_output=True, text=True
    ).stdout
    assert "error" not in reply, reply


@pytest.mark.parametrize(
    ("table", "row", "part", "words", "left"),
    [
        ("Network", {"dns_domain": "a b"}, "/services", "dns_domain 'a b' is not a domain name", None),
        (
            "Subnet",
            {"dns_nameservers": ["map", [[0, "nowhere"], [7, "10.0.0.2"], [9, "192.0.2.9"]]]},
            "",
            "name server 'nowhere' is not an IP address; left out",
            ("dns_servers", ("10.0.0.2", "192.0.2.9")),
        ),
        (
            "Subnet",
            {"host_routes": ["set", ["10.9.0.0/16", "10.8.0.0/16 10.0.0.9"]]},
            "",
            "host route '10.9.0.0/16' is not DESTINATION NEXTHOP; left out",
            ("host_routes", (("10.8.0.0/16", "10.0.0.9"),)),
        ),
        (
            "Port",
            {"hostname": "a b"},
            "/dhcp",
            "hostname 'a b' is not a host name",
            ("hostname", ""),
        ),
        (
            "Port",
            {"dhcp_options": ["map", [["mtu", "big"], ["router", "10.0.0.1"], ["3", "10.0.0.2"]]]},
            "/dhcp",
            "dhcp option mtu: 'big' is not a number",
            ("dhcp_options", (("3", "10.0.0.2"),)),
        ),
        (
            "Port",
            {"metadata": ["map", [["user_data", "a"], ["user_data_base64", "YQ=="], ["instance_id", "i 1"]]]},
            "/metadata",
            "metadata: instance_id: must be",
            ("metadata", (("user_data", "a"),)),
        ),
    ],
)
def test_what_makes_no_sense_is_left_out_and_the_rest_goes_on(
    server: StoreServer, followed: Followed, table: str, row, part: str, words: str, left
) -> None:
    before = followed.until(lambda s: s.ports)
    update(server, table, row)
    snapshot = followed.until(lambda s: s.problems)
    found: dict[str, Network | Subnet | Port] = {
        "Network": next(iter(snapshot.networks.values())),
        "Subnet": the_subnet(snapshot),
        "Port": the_port(snapshot),
    }
    problems = [problem for problem in snapshot.problems if words in problem.text]
    (problem,) = problems
    assert problem.object_id == f"{table.lower()}:{found[table].id}{part}"
    assert problem.field in row
    assert problem.actor is Actor.CLOUD
    assert problem.text.startswith(f"{table.lower()} {found[table].name}: ")
    if left is not None:
        assert getattr(found[table], left[0]) == left[1]
    assert the_port(snapshot).fixed_ips == the_port(before).fixed_ips
    (column,) = row
    update(
        server, table, {column: "" if isinstance(row[column], str) else ["map" if "map" in row[column] else "set", []]}
    )
    assert not followed.until(lambda s: not s.problems).problems


@pytest.mark.parametrize("address", [["set", []], "10.0.1.1", "10.0.0.1", "nowhere"])
def test_a_subnet_without_an_address_to_answer_from_is_named_and_goes_on(
    server: StoreServer, followed: Followed, address: object
) -> None:
    followed.until(lambda s: s.ports)
    update(server, "Subnet", {"server_address": address})
    snapshot = followed.until(lambda s: s.problems)
    assert the_subnet(snapshot).server_address is None
    (problem,) = [problem for problem in snapshot.problems if problem.actor is Actor.OPERATOR]
    assert (problem.object_id, problem.field) == (f"subnet:{the_subnet(snapshot).id}", "server_address")
    assert problem.text.startswith("subnet blue4: no server address: DHCP is not served; ")
    update(server, "Subnet", {"enable_dhcp": False})
    snapshot = followed.until(lambda s: the_subnet(s).dhcp is False)
    assert not [problem for problem in snapshot.problems if problem.actor is Actor.OPERATOR]


@pytest.mark.parametrize(
    ("row", "words", "service"),
    [
        ({"url": "nova"}, "url 'nova' is not http", MetadataService("", "/secret", "/ca")),
        ({"secret_file": ""}, "without a secret_file", MetadataService("", "", "/ca")),
        ({"ca_file": "ca"}, "ca_file 'ca' is not", MetadataService("https://nova", "/secret")),
        ({"client_key_file": "/k"}, "needs its key", MetadataService("https://nova", "/secret", "/ca")),
        ({"timeout": -1.0}, "timeout -1 is not", MetadataService("https://nova", "/secret", "/ca")),
    ],
)
def test_a_metadata_service_that_cannot_be_asked_is_named_and_nobody_is_served_as_if_there_were_none(
    server: StoreServer, followed: Followed, writer: Writer, row, words: str, service: MetadataService
) -> None:
    fields = MetadataServiceFields(url="https://nova", secret_file="/secret", ca_file="/ca")
    revision = writer.set_metadata_service(fields).revision
    followed.until(lambda s: s.revision == revision)
    update(server, "Metadata_Service", row)
    snapshot = followed.until(lambda s: s.problems)
    (problem,) = snapshot.problems
    assert problem.text.startswith("metadata service: ")
    assert words in problem.text
    assert snapshot.metadata_service == service


def test_a_metadata_service_that_says_no_time_out_has_the_usual_one(
    server: StoreServer, followed: Followed, writer: Writer
) -> None:
    revision = writer.set_metadata_service(MetadataServiceFields(url="https://nova", secret_file="/secret")).revision
    followed.until(lambda s: s.revision == revision)
    update(server, "Metadata_Service", {"timeout": 0.0, "ca_file": "/ca"})  # as in a row that others insert without
    snapshot = followed.until(lambda s: s.metadata_service and s.metadata_service.ca_file)
    assert snapshot.metadata_service == MetadataService("https://nova", "/secret", "/ca")
    assert snapshot.problems == ()


def test_writing_a_subnet_again_gives_it_a_server_address_that_makes_sense(
    server: StoreServer, followed: Followed, writer: Writer
) -> None:
    followed.until(lambda s: s.ports)
    update(server, "Subnet", {"server_address": "10.99.0.1"})
    followed.until(lambda s: s.problems)
    revision = writer.set_subnet("blue4", SubnetFields(dhcp=True)).revision
    snapshot = followed.until(lambda s: s.revision == revision)
    assert the_subnet(snapshot).server_address == "10.0.0.253", "254 is still its own while it chooses"
    assert snapshot.problems == ()
