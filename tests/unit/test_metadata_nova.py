# SPDX-License-Identifier: Apache-2.0
"""Requests that go to Nova: who they are said to be from, what of the client's goes along, and what comes back."""

from __future__ import annotations

import hashlib
import hmac
import tracemalloc
from dataclasses import replace

import h11
import pytest

from agent.core.errors import InputError
from agent.metadata.data import NovaData, ServiceData
from agent.metadata.events import AskNova
from agent.metadata.nova import Endpoint, Exchange, Question, endpoint
from tests.unit.metadata_client import NOVA_PORT, SERVICE, Client, Nova, read_reply, request

ID = "/latest/meta-data/instance-id"
SIGNATURE = hmac.new(b"shared", NOVA_PORT.instance_id.encode(), hashlib.sha256).hexdigest()
SIGNED = {
    "host": "nova.example:8775",
    "x-instance-id": NOVA_PORT.instance_id,
    "x-tenant-id": "tenant-a",
    "x-instance-id-signature": SIGNATURE,
    "x-forwarded-for": "10.0.0.5",
}


def test_nova_is_told_who_asks_and_signed_with_the_secret():
    client = Client(NOVA_PORT)

    assert client.get(ID).body == b"nova"
    assert client.nova.asked[0].startswith(b"GET " + ID.encode() + b" HTTP/1.1\r\nHost: nova.example:8775\r\n")
    assert client.nova.headers == SIGNED


def test_the_signature_is_the_hmac_that_others_compute():
    """The octets are what ``echo -n instance | openssl dgst -sha256 -hmac secret`` prints."""
    service = ServiceData(NovaData("http://nova:8775", secret="secret"), SERVICE.limits)
    client = Client(replace(NOVA_PORT, instance_id="instance"), service)
    client.get("/")
    expected = "fac450cbc556373851e9f5755126936b598b1749a007d96b7e0b7f1a5cd274e9"
    assert client.nova.headers["x-instance-id-signature"] == expected


@pytest.mark.parametrize(
    "name",
    [
        *(
            "X-Instance-ID",
            "X-Tenant-ID",
            "X-Instance-ID-Signature",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Forwarded",
        ),
        *(
            "Forwarded",
            "Authorization",
            "X-Neutron-Network-ID",
            "X-Neutron-Router-ID",
            "X-OVN-Network-ID",
            "X-Metadata-Provider",
        ),
        *("X-Metadata-Provider-Signature", "x_instance_id", "X_Tenant_ID", "X-Instance_ID", "X_FORWARDED_FOR"),
        *("X-Real-IP", "X-Project-ID", "X-Auth-Token", "X-Identity-Status", "X-Service-Catalog", "X-Roles", "Cookie"),
        *("Via", "TE", "Trailer", "Keep-Alive", "Proxy-Authorization", "Upgrade", "X-HTTP-Method-Override", "X-Any"),
        *(
            "X-Original-URL",
            "X-Rewrite-URL",
            "Range",
            "Content_Length",
            "Transfer_Encoding",
            "X-Scheme",
            "Authorization",
        ),
    ],
)
def test_no_field_of_the_client_that_could_mean_something_reaches_nova(name):
    client = Client(NOVA_PORT)

    assert client.get(ID, headers=[f"{name}: evil", f"{name.upper()}: evil", f"Connection: {name}"]).status == 200
    assert client.nova.headers == SIGNED
    assert b"evil" not in client.nova.asked[0]


def test_what_says_which_answer_is_wanted_goes_along():
    client = Client(NOVA_PORT)
    client.get(ID, headers=["Accept: text/plain", "User-Agent: Cloud-Init/22.4.2", "Accept-Encoding: gzip"])
    assert client.nova.headers == SIGNED | {"accept": "text/plain", "user-agent": "Cloud-Init/22.4.2"}


def test_what_is_not_plain_text_does_not():
    client = Client(NOVA_PORT)
    client.get(ID, headers=["User-Agent: \x85evil", "Accept: \xff"])
    assert client.nova.headers == SIGNED


def test_a_client_cannot_name_a_signed_field_as_hop_by_hop():
    client = Client(NOVA_PORT)
    client.get(ID, headers=["Connection: X-Instance-ID, X-Tenant-ID, close"])
    assert client.nova.headers == SIGNED


def test_the_path_is_said_in_one_way_only():
    client = Client(NOVA_PORT)
    client.get("//latest///meta-data//?a=b&c=%2e%2e")
    assert client.nova.asked[0].startswith(b"GET /latest/meta-data/?a=b&c=%2e%2e HTTP/1.1\r\n")
    client.get("/latest/%2e%2e/")
    assert len(client.nova.asked) == 1


@pytest.mark.parametrize(
    "octets",
    [
        request("/openstack/latest/password", "POST", body=b"secret password"),
        request("/openstack/latest/password", "POST", ["Transfer-Encoding: chunked"])
        + b"6\r\nsecret\r\n9;x=y\r\n password\r\n0\r\n\r\n",
    ],
)
def test_a_body_is_framed_anew(octets):
    client = Client(NOVA_PORT)
    client.say(octets, 4)

    assert client.nova.asked[0].endswith(b"\r\n\r\nsecret password")
    assert client.nova.headers == SIGNED | {"content-length": "15"}


def test_a_post_without_body_says_so():
    client = Client(NOVA_PORT)
    client.get("/openstack/latest/password", "POST")
    assert client.nova.headers["content-length"] == "0"


@pytest.mark.parametrize("method", ["DELETE", "TRACE", "CONNECT", "OPTIONS", "BREW"])
def test_methods_that_the_metadata_api_does_not_know_stay_here(method):
    client = Client(NOVA_PORT)
    assert client.get(ID, method).status == 405
    assert client.nova.asked == []


@pytest.mark.parametrize("status", [200, 204, 304, 400, 403, 404, 409, 500, 502, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_nova_says_is_passed_on(status, method):
    body = b"" if status in (204, 304) or method == "HEAD" else b"what"
    length = b"Content-Length: 4\r\n" if status not in (204, 304) else b""
    nova = Nova(b"HTTP/1.1 %d Whatever\r\nContent-Type: a/b\r\n%s\r\n%s" % (status, length, body))
    client = Client(NOVA_PORT, nova=nova)
    reply = client.get(ID, method)

    assert (reply.status, reply.headers["content-type"], reply.body) == (status, "a/b", body)
    assert client.answered[-1].status == status
    assert nova.exchanges[-1].reusable
    assert client.get(ID, method).status == status


def test_nothing_of_novas_hosts_is_passed_on():
    nova = Nova(
        b"HTTP/1.1 302 Found\r\nServer: nova-1\r\nVia: proxy\r\nSet-Cookie: a=b\r\nLocation: http://10.0.0.1/\r\n"
        b"X-Backend: x\r\nConnection: Keep-Alive, ETag\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"
    )
    assert Client(NOVA_PORT, nova=nova).get(ID).headers == {"content-length": "0"}


BIG = bytes(range(256)) * 16384  # 4 MiB
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (len(BIG), BIG)
ANSWERS = {
    "with its length": SIZED,
    "in chunks": b"HTTP/1.1 200 OK\r\n" + CHUNKS,
    "up to its end": b"HTTP/1.0 200 OK\r\n\r\n" + BIG,
    "in chunks, with a length that is wrong": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CHUNKS,
    "after something else": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + SIZED,
}


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_large_answers_come_through_however_they_are_framed(how, version):
    nova = Nova(ANSWERS[how], piece=65536, closes=how == "up to its end")
    client = Client(NOVA_PORT, nova=nova)
    octets = request(ID).replace(b"HTTP/1.1", f"HTTP/{version}".encode())

    reply, rest = read_reply(client.say(octets))
    assert (reply.status, reply.body == BIG, rest) == (200, True, b"")
    assert nova.exchanges[0].finished
    assert nova.exchanges[0].reusable == (how != "up to its end")
    assert bool(client.closed) == (version == "1.0")


def test_an_answer_passes_through_and_is_not_kept():
    nova = Nova(ANSWERS["with its length"], piece=65536)
    client = Client(NOVA_PORT, nova=nova)
    seen = 0
    asking = next(client.connection.feed(request(ID)))
    assert isinstance(asking, AskNova)
    exchange = asking.exchange
    exchange.request()
    tracemalloc.start()
    for at in range(0, len(nova.octets), 65536):
        for part in exchange.receive(nova.octets[at : at + 65536]):
            seen += len(part.data)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert seen > len(BIG)
    assert used < 600_000


class TestTrouble:
    def test_before_an_answer_it_is_a_503_that_says_when_to_come_again(self):
        nova = Nova(b"", closes=True)
        client = Client(NOVA_PORT, nova=nova)
        reply = client.get(ID)

        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert b"metadata service" in reply.body
        assert client.closed is None
        nova.octets, nova.closes = Nova().octets, False
        assert client.get(ID).body == b"nova"

    @pytest.mark.parametrize(
        "octets",
        [
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
        ],
    )
    def test_what_is_no_answer_is_a_503(self, octets):
        client = Client(NOVA_PORT, nova=Nova(octets, piece=65536, closes=True))
        assert client.get(ID).status == 503
        assert not client.nova.exchanges[0].reusable

    @pytest.mark.parametrize(
        "octets",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nx\r\n",
        ],
    )
    def test_half_an_answer_is_not_taken_for_a_whole_one(self, octets):
        client = Client(NOVA_PORT, nova=Nova(octets, closes=True))
        heard = client.say(request(ID) + request("/next"))

        with pytest.raises(ValueError):
            read_reply(heard)
        assert client.closed
        assert len(client.answered) == 1

    def test_a_loop_that_has_not_asked_has_a_503_as_well(self):
        class Silent(Nova):
            def run(self, exchange, send):
                pass

        client = Client(NOVA_PORT, nova=Silent())
        assert client.get(ID).status == 503

    def test_no_service_is_a_503(self):
        assert Client(NOVA_PORT, ServiceData(limits=SERVICE.limits)).get(ID).status == 503

    @pytest.mark.parametrize("url", ["", "nova:8775", "ftp://nova", "http://", "http://nova:port", "http://növa"])
    def test_a_service_that_cannot_be_asked_is_a_503(self, url):
        assert Client(NOVA_PORT, ServiceData(NovaData(url), SERVICE.limits)).get(ID).status == 503
        with pytest.raises(InputError, match="url"):
            endpoint(url)

    @pytest.mark.parametrize("bad", ["", "a\r\nX-Tenant-ID: b", "a b\n", "ä", " a", "x" * 300])
    def test_an_id_that_is_none_is_not_asked_for(self, bad):
        client = Client(replace(NOVA_PORT, instance_id=bad))
        assert client.get(ID).status == 404
        assert client.nova.asked == []

    def test_what_nova_sends_behind_its_answer_is_no_answer_to_the_next(self):
        client = Client(NOVA_PORT, nova=Nova(Nova().octets + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
        assert client.get(ID).body == b"nova"
        assert not client.nova.exchanges[0].reusable

    def test_nova_that_wants_to_close_is_not_asked_on_that_connection_again(self):
        answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnova"
        client = Client(NOVA_PORT, nova=Nova(answer))
        client.get(ID)
        assert not client.nova.exchanges[0].reusable


class TestAskedAgain:
    """A kept connection that Nova has closed meanwhile: what changes nothing may be asked again."""

    @staticmethod
    def exchange(method: bytes) -> Exchange:
        return Exchange(Question(method, b"/", ((b"Host", b"nova"),)), _server_side(method), last=False)

    @pytest.mark.parametrize(("method", "may"), [(b"GET", True), (b"HEAD", True), (b"POST", False), (b"PUT", False)])
    def test_only_what_is_for_reading(self, method, may):
        exchange = self.exchange(method)
        exchange.request()
        assert exchange.retriable is may

    def test_the_second_time_is_like_the_first(self):
        exchange = self.exchange(b"GET")
        assert exchange.request() == exchange.request()
        heard = b"".join(part.data for part in exchange.receive(Nova().octets))
        assert read_reply(heard)[0].body == b"nova"

    def test_not_after_the_first_octet_of_an_answer(self):
        exchange = self.exchange(b"GET")
        exchange.request()
        assert list(exchange.receive(b"H")) == []
        assert not exchange.retriable


def _server_side(method: bytes) -> h11.Connection:
    http = h11.Connection(h11.SERVER)
    http.receive_data(request("/", method.decode()))
    http.next_event()
    http.next_event()
    return http


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://nova", Endpoint("http", "nova", 80, "nova")),
        ("https://nova.example/", Endpoint("https", "nova.example", 443, "nova.example")),
        ("https://10.0.0.1:8775", Endpoint("https", "10.0.0.1", 8775, "10.0.0.1:8775")),
        ("http://[fd00::1]:8775", Endpoint("http", "fd00::1", 8775, "[fd00::1]:8775")),
    ],
)
def test_where_nova_is(url, where):
    assert endpoint(url) == where
