# SPDX-License-Identifier: Apache-2.0
"""How the metadata service speaks HTTP: keep-alive, what it refuses and how, and what it lets a port ask."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import pytest

from agent.metadata.allowance import Allowance
from agent.metadata.data import Limits, ServiceData
from agent.metadata.events import Send
from tests.unit.metadata_client import CONTENT, NOVA_PORT, PORT, SERVICE, Client, read_reply, request

ID = "/latest/meta-data/instance-id"
OK = PORT.instance_id.encode()


def limited(**limits) -> ServiceData:
    return replace(SERVICE, limits=Limits(**{"rate": 0, **limits}))


class TestKeepAlive:
    def test_a_connection_serves_many_requests(self):
        client = Client()
        assert [client.get(ID).body for _ in range(50)] == [OK] * 50
        assert client.connection.idle
        assert client.closed is None

    @pytest.mark.parametrize("piece", [1, 2, 3, 7, 50])
    def test_it_does_not_matter_how_requests_are_cut(self, piece):
        octets = request(ID) + request("/nope") + request("/latest/api/token", "PUT", body=b"ignored") + request(ID)
        assert Client().say(octets, piece) == Client().say(octets)

    def test_pipelined_requests_are_answered_in_order_and_one_at_a_time(self):
        client = Client()
        events = client.connection.feed(request(ID) + request("/nope") + request(ID, "HEAD"))
        first = next(events)

        assert isinstance(first, Send)
        assert read_reply(first.data)[0].body == OK
        assert client.answered == []  # the second has not been looked at
        rest = bytearray()
        client.take(events, rest)
        assert [answer.status for answer in client.answered] == [200, 404, 200]

    @pytest.mark.parametrize(
        "octets",
        [
            request(ID, headers=["Connection: close"]),
            request(ID, headers=["Connection: x, Close"]),
            request(ID, headers=["Connection: Upgrade, close", "Upgrade: h2c"]),
            f"GET {ID} HTTP/1.0\r\n\r\n".encode(),
            f"GET {ID} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode(),
        ],
    )
    def test_it_ends_when_the_client_wants_that_or_knows_no_better(self, octets):
        client = Client()
        reply, rest = read_reply(client.say(octets + request(ID)))

        assert (reply.body, reply.headers["connection"], rest) == (OK, "close", b"")
        assert client.closed

    def test_an_offer_to_switch_protocols_is_passed_over(self):
        client = Client()
        wishes = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
        assert client.get(ID, headers=wishes).body == OK
        assert client.get(ID).body == OK

    def test_a_client_that_closes_is_closed_and_not_answered(self):
        client = Client()
        assert client.say(request(ID)[:-5]) == b""
        assert client.say(b"") == b""
        assert client.closed
        assert not client.lingers

    def test_after_finish_the_next_answer_is_the_last(self):
        client = Client()
        client.get(ID)
        client.connection.finish()
        assert client.get(ID).headers["connection"] == "close"
        assert client.closed

    def test_one_empty_line_before_a_request_does_not_matter(self):
        assert read_reply(Client().say(b"\r\n" + request(ID)))[0].body == OK
        assert read_reply(Client().say(b"\r\n" + request(ID), 1))[0].body == OK

    @pytest.mark.parametrize("piece", [1, 2, 3, 1 << 16])
    def test_two_do(self, piece):
        assert read_reply(Client().say(b"\r\n\r\n" + request(ID), piece))[0].status == 400


class TestHead:
    @pytest.mark.parametrize("path", [ID, "/nope", "/latest/user-data", "/a/%2e%2e/b"])
    def test_it_has_the_fields_and_not_the_body(self, path):
        whole, head = Client().get(path), Client().get(path, "HEAD")
        assert (head.status, head.headers) == (whole.status, whole.headers)

    def test_requests_after_it_are_answered(self):
        client = Client()
        client.get("/latest/user-data", "HEAD")
        assert client.get(ID).body == OK


class TestBodies:
    def test_a_body_is_read_and_thrown_away(self):
        client = Client()
        assert client.get(ID, body=b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n").body == OK
        assert [answer.status for answer in client.answered] == [200]

    def test_a_chunked_body_too(self):
        client = Client()
        chunks = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
        octets = request(ID, headers=["Transfer-Encoding: chunked"]) + chunks + request("/nope")
        client.say(octets, 3)
        assert [answer.status for answer in client.answered] == [200, 404]

    def test_one_as_large_as_it_may_be_is_taken_and_a_larger_one_is_not(self):
        client = Client(service=limited(body=1000))
        assert client.get(ID, body=bytes(1000)).body == OK
        assert client.get(ID, headers=["Content-Length: 1001"]).status == 413
        assert client.closed

    def test_one_that_grows_too_large_is_cut_off(self):
        client = Client(service=limited(body=1000))
        octets = request(ID, headers=["Transfer-Encoding: chunked"]) + b"1f4\r\n" + bytes(500) + b"\r\n"
        assert client.say(octets) == b""
        assert read_reply(client.say(b"1f5\r\n" + bytes(501)))[0].status == 413
        assert client.lingers

    @pytest.mark.parametrize("chunk", [b"1;" + b"x" * 200 + b"\r\n.\r\n", b"1\r\n.\r\n"])
    def test_one_that_is_all_chunk_headers_is_cut_off(self, chunk):
        octets = request(ID, headers=["Transfer-Encoding: chunked"]) + chunk * 1100
        assert read_reply(Client().say(octets, 5000))[0].status == 413

    def test_a_client_that_asks_first_is_told_to_go_on(self):
        client = Client()
        head = request(ID, "GET", ["Expect: 100-continue", "Content-Length: 3"])
        first, rest = read_reply(client.say(head))
        assert (first.status, rest) == (100, b"")
        assert read_reply(client.say(b"abc"))[0].body == OK

    def test_and_not_if_the_answer_is_no(self):
        assert Client().get(ID, headers=["Expect: 100-continue", "Content-Length: 9999999"]).status == 413


class TestRefused:
    """Where a request ends must never be in doubt: what another server could read in another way ends here."""

    @pytest.mark.parametrize(
        ("octets", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\nHost: a\n\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
            (b"GET / HTTP/1.5\r\n\r\n", 505),
            (b"GET /\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            (request("http://169.254.169.254/latest"), 400),
            (request("169.254.169.254:80", "CONNECT"), 400),
            (request("*", "OPTIONS"), 400),
            (request("latest/meta-data"), 400),
            (request("\\latest"), 400),
            (request("/latest/../openstack"), 400),
            (request("/latest/%2e%2E/openstack"), 400),
            (request("/latest/..;/openstack"), 400),
            (request("/./latest"), 400),
            (request("/latest%2fmeta-data"), 400),
            (request("/latest%5cmeta-data"), 400),
            (request("/latest\\meta-data"), 400),
            (request("/latest%00"), 400),
            (request("/latest%252e"), 400),
            (request("/latest%"), 400),
            (request("/latest%zz"), 400),
            (request("/latest?%"), 400),
            (request("/latest%ff"), 400),
            (request("/latest%0d%0aX:y"), 400),
            (request("/latest#x"), 400),
            (request("/" + "x" * 2048), 414),
            (request("/" + "x" * 20000), 414),
            (request("/x", headers=["X: " + "y" * 16384]), 431),
            (request("/x", headers=["X: y"] * 101), 431),
        ],
    )
    @pytest.mark.parametrize("piece", [1 << 16, 11])
    def test_what_makes_no_sense_is_named_and_ends_the_connection(self, octets, status, piece):
        client = Client()
        reply, rest = read_reply(client.say(octets, piece))

        assert (reply.status, reply.headers["connection"], rest) == (status, "close", b"")
        assert client.lingers
        assert client.say(request(ID)) == b""

    SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    @pytest.mark.parametrize(
        "framing",
        [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 40",
            "Content-Length: 4, 4",
            "Content-Length: +4",
            "Content-Length: -4",
            "Content-Length: 0x4",
            "Content-Length: 4_0",
            "Content-Length: 4;",
            "Content-Length:",
            "Content-Length : 4",
            "Content-Length: " + "9" * 40,
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding:",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            "X: y\nTransfer-Encoding: chunked",
            "X: y\rTransfer-Encoding: chunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            " Transfer-Encoding: chunked",
            "X\0: y",
        ],
    )
    @pytest.mark.parametrize("piece", [1 << 16, 5])
    def test_a_length_that_two_servers_could_read_in_two_ways(self, framing, piece):
        client = Client()
        octets = f"POST /x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode("latin-1")
        reply, rest = read_reply(client.say(octets + b"0\r\n\r\n" + self.SMUGGLED, piece))

        assert (reply.status, rest) == (400, b"")
        assert client.closed
        assert all(answer.target != "/smuggled" for answer in client.answered)

    @pytest.mark.parametrize(
        "chunks",
        [
            *(b"x\r\n", b"-1\r\n", b"1\r\nab\r\n", b"1\r\na\nb", b"fffffffffffffffffffff\r\n", b" 1\r\na"),
            *(b"0\r\n\n", b"0\n\n", b"0\r\nX: y\n\n", b"0\r\nX: y\n\r\n", b"0\r\nContent-Length: 1\r\n\r\n"),
        ],
    )
    @pytest.mark.parametrize("piece", [1 << 16, 1])
    def test_chunks_that_are_none(self, chunks, piece):
        client = Client()
        octets = request("/x", "POST", ["Transfer-Encoding: chunked"]) + chunks + self.SMUGGLED
        assert read_reply(client.say(octets, piece))[0].status in (400, 413)
        assert all(answer.target != "/smuggled" for answer in client.answered)

    def test_http_1_0_has_no_chunks(self):
        octets = b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert read_reply(Client().say(octets))[0].status == 400

    def test_a_body_is_no_second_request(self):
        client = Client()
        client.say(request(ID, "POST", body=self.SMUGGLED) + request("/end"))
        assert [answer.target for answer in client.answered] == [ID, "/end"]

    @pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding", "X-Content-Length"])
    def test_names_that_only_look_like_it_say_nothing(self, name):
        client = Client()
        client.say(request("/x", headers=[f"{name}: 40"]) + request("/end"))
        assert [answer.target for answer in client.answered] == ["/x", "/end"]


class TestTime:
    def test_a_client_that_is_between_requests_is_closed_silently(self):
        client = Client()
        client.get(ID)
        assert client.time_out() == b""
        assert client.closed

    @pytest.mark.parametrize("part", [request(ID)[:1], request(ID)[:-1], request(ID, body=b"12345")[:-1]])
    def test_one_that_does_not_finish_its_request_is_told_so(self, part):
        client = Client()
        assert client.say(part) == b""
        assert not client.connection.idle
        assert read_reply(client.time_out())[0].status == 408
        assert client.closed


class TestRate:
    def test_what_is_more_than_the_burst_has_to_wait(self):
        client = Client(service=limited(rate=2, burst=3))

        assert [client.get(ID).status for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get(ID)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert client.closed is None
        client.now += 0.5
        assert [client.get(ID).status for _ in range(2)] == [200, 429]

    def test_the_loop_is_told_to_let_the_client_wait(self):
        client = Client(service=limited(rate=2, burst=1))
        client.say(request(ID) * 3)
        assert client.paused == [0.5, 0.5]

    def test_idle_time_saves_no_more_than_the_burst(self):
        client = Client(service=limited(rate=100, burst=2))
        client.now += 1e6
        assert [client.get(ID).status for _ in range(3)] == [200, 200, 429]

    def test_all_connections_of_a_port_draw_on_one_allowance(self):
        allowance, service = Allowance(), limited(rate=1, burst=2)
        clients = [Client(service=service, allowance=allowance) for _ in range(3)]
        assert [client.get(ID).status for client in clients] == [200, 200, 429]
        assert Client(service=service).get(ID).status == 200  # another port's

    def test_bad_requests_are_counted_as_well(self):
        allowance, service = Allowance(), limited(rate=1, burst=1)
        assert Client(service=service, allowance=allowance).get("/%").status == 400
        assert Client(service=service, allowance=allowance).get(ID).status == 429

    def test_none_is_no_limit(self):
        client = Client(service=limited(rate=0, burst=1))
        assert {client.get(ID).status for _ in range(100)} == {200}

    def test_connections_are_counted(self):
        allowance, limits = Allowance(), Limits(connections=2)
        assert [allowance.connect(limits) for _ in range(3)] == [True, True, False]
        allowance.disconnect()
        assert allowance.connect(limits)


class TestCost:
    """What one request may cost the processor, which all ports share."""

    @pytest.mark.parametrize(
        "octets",
        [
            request("/x", headers=["Content-Length: a" + " " * 15800 + "b"]),
            request("/x", headers=["Transfer-Encoding: a" + " " * 15800 + "b"]),
            request("/x", headers=["X:" + " " * 15800 + "\x0b"]),
            request("/x", headers=["X:" + " \t" * 7900 + "\x0c"]),
            request("/x", headers=["X: " + "a " * 7900]),
            request("/x", headers=["X: " + "a " * 7900 + "\x7f"]),
            request("/x", headers=["a" * 15800]),
            request("/x", headers=["Connection: " + "," * 15800]),
            request("/" + "a/" * 1000),
            request("/" + "%41" * 680),
            request("/x", "POST", ["Transfer-Encoding: chunked"]) + b"1\r\nx\r\n" * 40000,
            request("/x", "POST", ["Transfer-Encoding: chunked"]) + b"0\r\nX:" + b" " * 15800 + b"\x0b\r\n\r\n",
            request("/x", "POST", ["Transfer-Encoding: chunked"]) + b"1" + b" " * 65000,
        ],
    )
    @pytest.mark.parametrize("port", [PORT, NOVA_PORT])
    def test_no_request_takes_long(self, octets, port):
        """A few milliseconds; it was seconds where an expression went back and forth over spaces."""
        client = Client(port)
        start = time.thread_time()
        client.say(octets)
        assert time.thread_time() - start < 0.2

    def test_a_long_head_counts_as_more_than_one_request(self):
        client = Client(service=limited(rate=1, burst=10))
        long = ["X: " + "y" * 15000]
        assert [client.get(ID, headers=long).status for _ in range(2)] == [200, 429]
        assert client.get(ID).status == 200  # there was a little left

    def test_but_never_as_more_than_there_can_be(self):
        client = Client(service=limited(rate=1, burst=2))
        assert client.get(ID, headers=["X: " + "y" * 15000]).status == 200


class TestMemory:
    def test_user_data_are_in_memory_once_however_many_ask(self):
        client = Client(replace(PORT, content=replace(CONTENT, user_data=bytes(1 << 20))))
        tracemalloc.start()
        clients = [Client(client.port) for _ in range(50)]
        under_way = [one.connection.feed(request("/latest/user-data")) for one in clients]
        parts = [[next(events), next(events)] for events in under_way]
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert all(isinstance(body, Send) and len(body.data) == 1 << 20 for _, body in parts)
        assert used < 2 << 20

    def test_a_connection_holds_no_more_than_a_head_however_much_it_serves(self):
        client = Client()
        client.say(request(ID) * 10)
        tracemalloc.start()
        for _ in range(200):
            client.say(request("/nope", body=bytes(30000)))
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert used < 200_000
