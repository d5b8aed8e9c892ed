# SPDX-License-Identifier: Apache-2.0
"""Metadata by way of Nova: what it is told and by whom, and what instances see of it when it is slow or away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.service_identity import link_local
from tests.functional.filter_wire import namespace_of
from tests.functional.instance_sockets import Http, Response, get, raw
from tests.functional.lab import Lab, eventually
from tests.functional.nova_stand_in import Certificates, Nova, make_certificates
from tests.functional.service_places import ADDRESS4, ADDRESS6, route_to_metadata

pytestmark = pytest.mark.alone

SECRET = "the shared secret"
TIMEOUT = 2  # seconds that Nova may take
INSTANCES = {"blue1": "5b3b6d7e-0000-4000-8000-00000000000a", "red1": "5b3b6d7e-0000-4000-8000-00000000000b"}
PROJECTS = {"blue1": "project-blue", "red1": "project-red"}
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
PLACES = f"""
networks:
  blue: {{type: vxlan}}
  red: {{type: vxlan}}
subnets:
  blue4: {{network: blue, cidr: 10.0.0.0/24}}
  blue6: {{network: blue, cidr: "2001:db8::/64", ipv6_mode: dhcpv6-stateful}}
  red4: {{network: red, cidr: 10.0.0.0/24}}
  red6: {{network: red, cidr: "2001:db8::/64", ipv6_mode: dhcpv6-stateful}}
ports:
  blue1:
    network: blue
    host: host1
    fixed_ips: [{ADDRESS4}, "{ADDRESS6}"]
    device_id: {INSTANCES["blue1"]}
    project: {PROJECTS["blue1"]}
    security_groups: null
  red1:
    network: red
    host: host1
    fixed_ips: [{ADDRESS4}, "{ADDRESS6}"]
    device_id: {INSTANCES["red1"]}
    project: {PROJECTS["red1"]}
    security_groups: null
  own: {{network: blue, host: host1, metadata: {{instance_id: i-own}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nova")
    (folder / "secret").write_text(f"{SECRET}\n")
    return folder


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Certificates:
    return make_certificates(folder)


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab], folder: Path, certificates: Certificates) -> Lab:
    """A host whose metadata service is Nova, by TLS with a certificate on both sides."""
    lab = new_lab(1)
    lab.bring_up(PLACES)
    tell(lab, certificates, folder / "secret")
    route_to_metadata(lab, "blue1", "red1", "own")
    return lab


def tell(lab: Lab, certificates: Certificates, secret: Path) -> None:
    """Write the metadata service to the store and wait until the host has it."""
    service = {
        "url": "https://127.0.0.1:8775",
        "secret_file": secret,
        "ca_file": certificates.authority,
        "client_cert_file": certificates.client,
        "client_key_file": certificates.client_key,
        "timeout": TIMEOUT,
    }
    text = "\n".join(["metadata_service:", *(f"  {key}: {value}" for key, value in service.items())])
    lab.applied(lab.writer.apply(parse_file(text.encode(), "service")))


@pytest.fixture
def nova(lab: Lab, certificates: Certificates) -> Iterator[Nova]:
    with Nova(namespace_of(lab, "host1"), SECRET, certificates) as nova:
        yield nova


def ask(lab: Lab, port: str, path: str, **options: int) -> Response:
    return get(namespace_of(lab, port), path, **options)  # type: ignore[arg-type]


@VERSIONS
@pytest.mark.parametrize("port", ["blue1", "red1"])
def test_nova_is_told_who_asks_and_believes_it(lab: Lab, nova: Nova, port: str, version: int) -> None:
    headers = ask(lab, port, "/echo", version=version).json()
    assert headers["x-instance-id"] == INSTANCES[port]
    assert headers["x-tenant-id"] == PROJECTS[port]
    # To a link-local address instances speak from theirs.
    assert headers["x-forwarded-for"] == (ADDRESS4 if version == 4 else link_local(lab.mac(port)))
    assert nova.seen.codes == {200: 1}


def test_headers_that_would_lie_to_nova_do_not_reach_it(lab: Lab, nova: Nova) -> None:
    lies = ["X-Instance-ID", "x-instance-id", "X_Instance_ID", "X-Tenant-ID", "X-Forwarded-For", "Forwarded"]
    lies += ["X-Instance-ID-Signature", "X-Metadata-Provider", "X-Metadata-Provider-Signature", "X-Real-IP"]
    lines = "".join(f"{name}: {INSTANCES['red1']}\r\n" for name in lies)
    request = f"GET /echo HTTP/1.1\r\nHost: 169.254.169.254\r\n{lines}Connection: close, X-Instance-ID\r\n\r\n"
    assert raw(namespace_of(lab, "blue1"), request.encode()).startswith(b"HTTP/1.1 200")
    (seen,) = nova.seen.requests
    headers = seen["headers"]
    assert isinstance(headers, list)
    assert [value for name, value in headers if name == "x-instance-id"] == [INSTANCES["blue1"]]
    assert not [item for item in headers if item[1] == INSTANCES["red1"]]
    assert len([name for name, _ in headers if name == "x-forwarded-for"]) == 1


def test_who_has_metadata_in_the_store_does_not_need_nova(lab: Lab, nova: Nova) -> None:
    assert ask(lab, "own", "/latest/meta-data/instance-id").text == "i-own"
    assert nova.seen.requests == []


def test_path_query_body_and_answer_pass_unchanged(lab: Lab, nova: Nova) -> None:
    with Http(namespace_of(lab, "blue1")) as connection:
        assert connection.ask("/nothing/here?a=b%20c&d").status == 404
        assert connection.ask("/openstack/latest/password", "POST", body=b"encrypted").status == 404
        for size in (0, 1, 65536, 4 << 20):
            answer = connection.ask(f"/big/{size}")
            assert (answer.status, len(answer.body)) == (200, size)
    assert [seen["path"] for seen in nova.seen.requests[:2]] == [
        "/nothing/here?a=b%20c&d",
        "/openstack/latest/password",
    ]
    assert (nova.seen.requests[1]["method"], nova.seen.requests[1]["body"]) == ("POST", "encrypted")


def test_connections_to_nova_are_used_again(lab: Lab, nova: Nova) -> None:
    with Http(namespace_of(lab, "blue1")) as connection:
        for _ in range(20):
            assert connection.ask("/latest/meta-data/instance-id").status == 200
    assert nova.seen.connections <= 3


def test_while_nova_is_away_it_is_said_at_once_and_its_return_noticed(lab: Lab, nova: Nova) -> None:
    assert ask(lab, "blue1", "/latest/meta-data/instance-id").status == 200
    nova.stop()
    begun = time.monotonic()
    answer = ask(lab, "blue1", "/latest/meta-data/instance-id")
    assert time.monotonic() - begun < TIMEOUT + 1
    assert answer.status == 503
    assert "retry-after" in answer.headers
    assert b"nova" in answer.body.lower() or b"metadata" in answer.body.lower()
    nova.start()
    eventually(lambda: ask(lab, "blue1", "/latest/meta-data/instance-id").status == 200, "Nova is asked again", 5)


def test_a_slow_nova_delays_only_who_asks_for_it(lab: Lab, nova: Nova) -> None:
    """Of one port some questions may wait at a time; what is more is refused, so that there is room for others."""
    with ThreadPoolExecutor(20) as pool:
        begun = time.monotonic()
        slow = [pool.submit(ask, lab, "red1", "/slow/1") for _ in range(20)]
        assert ask(lab, "blue1", "/latest/meta-data/instance-id").status == 200
        assert ask(lab, "own", "/latest/meta-data/instance-id").status == 200
        assert time.monotonic() - begun < 0.9
        codes = [answer.result().status for answer in slow]
    assert set(codes) <= {200, 503}
    assert codes.count(200) >= 4
    assert time.monotonic() - begun < TIMEOUT + 1


def test_a_nova_that_never_answers_is_given_up(lab: Lab, nova: Nova) -> None:
    begun = time.monotonic()
    assert ask(lab, "blue1", f"/slow/{TIMEOUT * 4}").status in (503, 504)
    assert TIMEOUT - 0.1 <= time.monotonic() - begun < TIMEOUT + 1.5


def test_a_nova_that_somebody_else_vouches_for_is_not_asked(lab: Lab, tmp_path: Path) -> None:
    with Nova(namespace_of(lab, "host1"), SECRET, make_certificates(tmp_path)) as impostor:
        assert ask(lab, "blue1", "/latest/meta-data/instance-id").status == 503
        assert impostor.seen.requests == []


def test_a_new_secret_is_used_without_a_restart(lab: Lab, folder: Path, certificates: Certificates) -> None:
    with Nova(namespace_of(lab, "host1"), "another", certificates):
        assert ask(lab, "blue1", "/latest/meta-data/instance-id").status == 403
        (folder / "another").write_text("another")
        try:
            tell(lab, certificates, folder / "another")
            assert ask(lab, "blue1", "/latest/meta-data/instance-id").status == 200
        finally:
            tell(lab, certificates, folder / "secret")
