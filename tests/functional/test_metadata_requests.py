# SPDX-License-Identifier: Apache-2.0
"""Metadata as instances ask for them, through a whole host: whose they are, who may ask, and how much."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.service_identity import link_local
from tests.functional import clients
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import Http, get, open_stream, raw
from tests.functional.lab import Lab, eventually
from tests.functional.service_places import ADDRESS4, ADDRESS6, DOCUMENT, route_to_metadata

pytestmark = pytest.mark.alone

VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
BIG_SIZE = 1 << 20  # octets
BIG = (b"#!/bin/sh\n" + bytes(range(32, 127)) * 12000)[:BIG_SIZE]
MIDDLE = b"#cloud-config\n" + b"# \xc3\xa9\n" * 16384
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBoZsTz7b0CUhnYB0pSG6jA0i1TtlUtCjgZ6oFpyeRyC {}@example.org"
MORE = f"""
security_groups:
  no-metadata:
    - {{direction: egress, ethertype: IPv4, remote_ip_prefix: 10.0.0.0/8}}
  only-metadata:
    - {{direction: egress, ethertype: IPv4, protocol: tcp, ports: 80, remote_ip_prefix: 169.254.169.254/32}}
ports:
  blue1:
    network: blue
    host: host1
    metadata:
      instance_id: i-blue
      ssh_keys: ["{KEY.format("blue")}"]
      user_data_base64: {base64.b64encode(BIG).decode()}
      availability_zone: zone-blue
      meta: {{role: web}}
  red1:
    network: red
    host: host1
    metadata:
      instance_id: i-red
      ssh_keys: ["{KEY.format("red")}"]
      user_data_base64: {base64.b64encode(MIDDLE).decode()}
      vendor_data: {{cloud-init: "#cloud-config"}}
  allowed: {{network: blue, host: host1, fixed_ips: [10.0.0.13], security_groups: [only-metadata]}}
  denied: {{network: blue, host: host1, fixed_ips: [10.0.0.14], security_groups: [no-metadata]}}
  greedy: {{network: green, host: host1, fixed_ips: [10.2.0.31]}}
  holder: {{network: green, host: host1, fixed_ips: [10.2.0.32]}}
"""
FULL = {"blue1": ("i-blue", BIG), "red1": ("i-red", MIDDLE)}
PROMPT = 1.0  # seconds in which who is not limited is answered, whatever others do


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    lab.bring_up(MORE)
    route_to_metadata(lab, "blue1", "blue2", "red1", "red2", "allowed", "denied", "greedy", "holder", "green1")
    return lab


@VERSIONS
@pytest.mark.parametrize("port", ["blue1", "red1"])
def test_tenants_with_equal_addresses_have_their_own_over_both_families(lab: Lab, port: str, version: int) -> None:
    namespace = namespace_of(lab, port)
    found = get(namespace, "/openstack/latest/meta_data.json", version=version).json()
    identity = FULL[port][0]
    assert (found["uuid"], found["name"]) == (identity, port)
    assert get(namespace, "/latest/meta-data/instance-id", version=version).text == identity
    assert get(namespace, "/latest/meta-data/local-ipv4", version=version).text == ADDRESS4
    key = get(namespace, "/latest/meta-data/public-keys/0/openssh-key", version=version).text
    assert key.strip() == KEY.format(port[:-1])


@pytest.mark.parametrize("source", ["fixed", "link-local"])
def test_an_instance_may_ask_from_its_fixed_ipv6_address_too(lab: Lab, source: str) -> None:
    address = ADDRESS6 if source == "fixed" else link_local(lab.mac("blue1"))
    with Http(namespace_of(lab, "blue1"), 6, source=address) as connection:
        assert connection.ask("/latest/meta-data/instance-id").text == "i-blue"


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::a9fe:a9fe%25eth0]"], ids=["IPv4", "IPv6"])
def test_curl_asks_as_people_do(lab: Lab, host: str) -> None:
    clients.require("curl")
    assert lab.output("red1", "curl", "-sS", "--max-time", "5", f"http://{host}/1.0/meta-data/instance-id") == "i-red"


@VERSIONS
@pytest.mark.parametrize("port", ["blue1", "red1"], ids=["direct", "through a filter"])
def test_large_user_data_come_whole(lab: Lab, port: str, version: int) -> None:
    """More than Nova allows, and 80 KiB."""
    for path in ("/openstack/latest/user_data", "/latest/user-data"):
        answer = get(namespace_of(lab, port), path, version=version)
        assert answer.status == 200
        assert (len(answer.body), hashlib.sha256(answer.body).digest()) == (
            len(FULL[port][1]),
            hashlib.sha256(FULL[port][1]).digest(),
        )


@VERSIONS
def test_segments_fill_the_networks_mtu_and_no_more(lab: Lab, version: int) -> None:
    with lab.capture("blue1") as frames:
        get(namespace_of(lab, "blue1"), "/latest/user-data", version=version)
        end = itertools.count()
        seen = frames.until(lambda frame: len(frame) > 1000 and next(end) > 50)
    assert max(map(len, seen)) <= 1400 + 14
    assert max(map(len, seen)) >= 1380 + 14


def test_requests_follow_each_other_on_one_connection(lab: Lab) -> None:
    with Http(namespace_of(lab, "blue1")) as connection:
        answers = [connection.ask("/latest/meta-data/instance-id") for _ in range(20)]
        answers.append(connection.ask("/nothing/here"))
        answers.append(connection.ask("/latest/meta-data/instance-id", "HEAD"))
        answers.append(connection.ask("/latest/meta-data/hostname"))
    assert [answer.status for answer in answers] == [200] * 20 + [404, 200, 200]
    assert answers[-2].body == b""


def test_what_cloud_init_reads_besides(lab: Lab) -> None:
    namespace = namespace_of(lab, "red1")
    network = get(namespace, "/openstack/latest/network_data.json").json()
    assert lab.mac("red1") in json.dumps(network)
    assert get(namespace, "/openstack/latest/vendor_data.json").json() == {"cloud-init": "#cloud-config"}
    listing = get(namespace, "/").text.split()
    assert {"latest", "2009-04-04"} <= set(listing)
    assert "meta_data.json" in get(namespace, "/openstack/latest").text
    found = get(namespace_of(lab, "blue1"), "/openstack/latest/meta_data.json").json()
    assert found["meta"] == {"role": "web"}
    assert found["availability_zone"] == "zone-blue"


def test_a_port_of_which_the_store_says_nothing_has_what_follows_from_it(lab: Lab) -> None:
    found = get(namespace_of(lab, "blue2"), "/openstack/latest/meta_data.json").json()
    assert found["uuid"] == lab.writer.get_port("blue2").id
    assert get(namespace_of(lab, "blue2"), "/latest/meta-data/local-ipv4").text == "10.0.0.12"


def test_the_way_to_a_router_leads_there_as_well(lab: Lab) -> None:
    """An instance that knows no better sends to its gateway, whose MAC address may be any."""
    lab.output("blue2", "ip", "route", "del", "169.254.169.254/32", "dev", "eth0")
    lab.output("blue2", "ip", "route", "replace", "default", "via", "10.0.0.1", "dev", "eth0")
    neighbor = ["10.0.0.1", "lladdr", "fa:16:3e:99:99:99", "dev", "eth0", "nud", "permanent"]
    lab.output("blue2", "ip", "neighbor", "replace", *neighbor)
    try:
        assert get(namespace_of(lab, "blue2"), "/latest/meta-data/local-ipv4").text == "10.0.0.12"
    finally:
        route_to_metadata(lab, "blue2")


def test_egress_rules_decide_about_metadata(lab: Lab) -> None:
    assert get(namespace_of(lab, "allowed"), "/latest/meta-data/local-ipv4").text == "10.0.0.13"
    for port in ("denied", "red2"):  # the latter's groups allow nothing at all
        with pytest.raises(TimeoutError):
            get(namespace_of(lab, port), "/", timeout=1.0)


def test_nothing_else_is_there(lab: Lab) -> None:
    """No other port, no other protocol, no echo, and no way through to other instances."""
    assert not lab.ping("blue1", "169.254.169.254", wait=0.5)
    assert not lab.ping("blue1", "fe80::a9fe:a9fe%eth0", "-6", wait=0.5)
    for url in ("http://169.254.169.254:8080/", "http://[fe80::a9fe:a9fe%25eth0]:443/"):
        assert lab.run("blue1", "curl", "-sS", "--connect-timeout", "0.5", url).returncode == 28


@pytest.mark.parametrize(
    "header", ["X-Instance-ID: i-red", "X-Forwarded-For: 10.0.0.12", "X-Tenant-ID: red", "X-OVN-Network-ID: red"]
)
def test_what_a_request_says_of_its_sender_does_not_matter(lab: Lab, header: str) -> None:
    request = f"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: i-red\r\n{header}\r\nConnection: close\r\n\r\n"
    answer = raw(namespace_of(lab, "blue1"), request.encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"i-blue")


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"GET http://other/ HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["two lengths", "two contents", "large header", "TLS", "large target"],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(lab: Lab, octets: bytes) -> None:
    try:
        answer = raw(namespace_of(lab, "blue1"), octets)
    except ConnectionResetError:
        return  # refused before all of it was read
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") <= 1


@VERSIONS
def test_who_asks_too_often_is_told_so_and_others_do_not_notice(lab: Lab, version: int) -> None:
    """The limits are of one port and one family: 200 requests at once, 50 a second."""
    greedy, other = namespace_of(lab, "greedy"), namespace_of(lab, "blue2")
    with Http(greedy, version) as connection:
        answers = (connection.ask("/latest/meta-data/instance-id") for _ in range(600))
        served, limited = 0, None
        for answer in answers:
            if answer.status != 200:
                limited = answer
                break
            served += 1
        begun = time.monotonic()
        assert get(other, "/latest/meta-data/instance-id", version=version).status == 200
        assert time.monotonic() - begun < PROMPT
    assert limited is not None, "six hundred requests were served"
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) >= 1
    assert served >= 200


def test_a_thousand_half_open_connections_of_one_port_hinder_no_other(lab: Lab) -> None:
    holder = namespace_of(lab, "holder")
    with ExitStack() as ends, ThreadPoolExecutor(32) as pool:

        def hold(number: int) -> bool:
            try:
                link = ends.enter_context(open_stream(holder, 4, 5.0))
            except OSError:
                return False
            try:
                link.sendall(b"GET / HTTP/1.1\r\nHost: " if number % 2 else b"")
            except OSError:
                return False
            return True

        assert sum(pool.map(hold, range(1000))) > 64
        for port in ("blue1", "red1", "green1"):
            for version in (4, 6):
                begun = time.monotonic()
                assert get(namespace_of(lab, port), "/latest/meta-data/instance-id", version=version).status == 200
                assert time.monotonic() - begun < PROMPT
    # And it has not shut itself out for good.
    eventually(lambda: serves(holder), "the holder is served again", 15)


def serves(namespace: Path) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(namespace, "/latest/meta-data/instance-id", timeout=2.0).status == 200
    return False


def test_who_does_not_read_delays_nobody(lab: Lab) -> None:
    with open_stream(namespace_of(lab, "blue1"), 4, 30.0) as slow:
        slow.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(namespace_of(lab, "blue2"), "/latest/meta-data/instance-id").status == 200
        assert get(namespace_of(lab, "blue1"), "/latest/meta-data/instance-id").status == 200


@pytest.mark.parametrize("port", ["blue1", "red1"], ids=["direct", "through a filter"])
@pytest.mark.parametrize("source", ["OpenStack", "Ec2"])
def test_cloud_init_finds_itself(lab: Lab, tmp_path: Path, source: str, port: str) -> None:
    found = clients.cloud_init(lab, port, tmp_path, source)
    assert found.standard("instance_id") == FULL[port][0]
    assert found.standard("platform") == source.lower()
    assert found.standard("public_ssh_keys") == [KEY.format(port[:-1])]
    assert found.standard("local_hostname") == {"blue1": "web", "red1": "db"}[port]
    assert found.user_data == FULL[port][1].decode()


def test_cloud_init_finds_itself_before_it_has_an_address(lab: Lab, tmp_path: Path) -> None:
    """In its local stage: DHCP by dhclient, the route to the metadata from the answer, then OpenStack."""
    clients.forget(lab, "green1")
    found = clients.cloud_init(lab, "green1", tmp_path, "OpenStack", local=True)
    assert found.standard("instance_id") == lab.writer.get_port("green1").id


def test_what_the_store_says_anew_is_said_in_the_next_answer(lab: Lab) -> None:
    namespace = namespace_of(lab, "blue2")
    with Http(namespace) as connection:
        before = connection.ask("/latest/meta-data/instance-id").text
        change = "ports:\n  blue2: {network: blue, host: host1, metadata: {instance_id: i-renamed}}"
        lab.applied(lab.writer.apply(parse_file(change.encode(), "change")))
        assert before != "i-renamed"
        assert connection.ask("/latest/meta-data/instance-id").text == "i-renamed"
