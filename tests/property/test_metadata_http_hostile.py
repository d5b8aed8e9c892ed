# SPDX-License-Identifier: Apache-2.0
"""Whatever a client, or Nova, sends: answers come out or silence, and Nova is asked for the right instance."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from agent.metadata.allowance import Allowance
from agent.metadata.data import (
    ContentData,
    Limits,
    MetadataData,
    NovaData,
    ServiceData,
    decode_metadata,
    decode_service,
    encode_metadata,
    encode_service,
)
from tests.fuzz import metadata_http as fuzz
from tests.unit.metadata_client import NOVA_PORT, PORT, Client, Nova, read_reply, request

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
contents = st.builds(
    ContentData,
    hostname=texts,
    fqdn=texts,
    ssh_keys=st.lists(texts, max_size=3).map(tuple),
    user_data=st.binary(max_size=100),
    vendor_data=st.sampled_from(["", "{}", '"#cloud-config"', "[1]"]),
    availability_zone=texts,
    instance_type=texts,
    meta=st.lists(st.tuples(texts, texts), max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
    network_data=st.sampled_from(["", "{}"]),
)
ports = st.builds(
    MetadataData,
    *([texts] * 6),
    aliases=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    addresses=st.lists(texts, max_size=3).map(tuple),
    content=st.none() | contents,
)
services = st.builds(
    ServiceData,
    nova=st.none() | st.builds(NovaData, *([texts] * 5), insecure=st.booleans(), timeout=st.floats(0, 1e6)),
    limits=st.builds(Limits, st.floats(0, 1e6), *([st.integers(0, 1 << 40)] * 3), st.floats(0, 1e6)),
)
tokens = st.text("!#$%&'*+-.^_`|~abcXYZ019", min_size=1, max_size=12)
names = tokens | st.sampled_from(
    [
        *("X-Instance-ID", "x_instance_id", "X-Tenant-ID", "X-Forwarded-For", "X-Instance-ID-Signature", "Connection"),
        *("Content-Length", "Transfer-Encoding", "Host", "Expect", "Upgrade", "User-Agent", "Accept", "Content-Type"),
    ]
)
values = st.text(st.characters(max_codepoint=255), max_size=20) | st.sampled_from(
    ["close", "chunked", "5", "100-continue"]
)
requests = st.builds(
    lambda method, path, fields, body: request(path, method, [f"{name}: {value}" for name, value in fields], body),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "CONNECT", "OPTIONS"]) | tokens,
    st.text("/.%2efFlatest\\?#;:*", max_size=20).map(lambda text: "/" + text),
    st.lists(st.tuples(names, values), max_size=5),
    st.binary(max_size=30),
)
octets = st.lists(requests | st.sampled_from(fuzz.corpus()) | st.binary(max_size=50), min_size=1, max_size=3).map(
    b"".join
)


@given(octets=octets.filter(bool), cuts=st.lists(st.integers(0, 500), max_size=5), nova=st.booleans())
@example(octets=b"\r\n\r\n", cuts=[1], nova=False)
@example(octets=b"\n", cuts=[], nova=True)
def test_requests_are_what_a_strict_reader_sees_and_nova_hears_nothing_of_the_clients(octets, cuts, nova):
    fuzz.check(octets, sorted(min(cut, len(octets)) for cut in cuts), nova=nova)


def test_broken_requests_are_harmless():
    """A soak sets HOSTPLANE_FUZZ_SECONDS; ``python -m tests.fuzz.metadata_http`` watches memory, too."""
    seconds = os.environ.get("HOSTPLANE_FUZZ_SECONDS")
    outcome = fuzz.run(60, seed=1, limit=2000) if seconds is None else fuzz.run(float(seconds), seed=os.getpid())

    assert outcome.statuses[200] > outcome.inputs / 10
    assert outcome.slowest < 0.5  # 8 ms on an idle processor


@given(
    answer=st.binary(max_size=100)
    | st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnova",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnova\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nnova",
        ]
    ),
    broken=st.none() | st.tuples(st.integers(0, 60), st.binary(max_size=5)),
    piece=st.integers(1, 100),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_whatever_nova_says_the_client_gets_an_answer_or_an_end(answer, broken, piece, method):
    if broken:
        at, other = broken
        answer = answer[:at] + other + answer[at + len(other) :]
    client = Client(NOVA_PORT, nova=Nova(answer, piece, closes=True))
    heard = client.say(request("/x", method))

    exchange = client.nova.exchanges[0]
    assert exchange.finished
    assert len(client.answered) == 1
    if exchange.broken:
        assert client.closed
    else:
        reply, rest = read_reply(heard, method)
        assert (reply.status, rest) == (exchange.status, b"")


@given(port=ports, service=services)
def test_what_is_handed_over_comes_out_as_it_went_in(port, service):
    assert decode_metadata(json.loads(json.dumps(encode_metadata(port)))) == port
    assert decode_service(json.loads(json.dumps(encode_service(service)))) == service


@given(content=contents)
def test_whatever_the_store_says_each_path_that_is_listed_is_there(content):
    client = Client(replace(PORT, content=content))
    assert all(isinstance(value, str | bytes) for value in crawl(client, "/latest/meta-data/").values())
    for name in client.get("/openstack/latest/").lines:
        assert client.get(f"/openstack/latest/{name}").status == 200
    found = client.get("/openstack/latest/meta_data.json").json
    assert found.get("meta", {}) == dict(content.meta)
    assert list(found.get("public_keys", {}).values()) == list(content.ssh_keys)


def crawl(client: Client, path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for line in client.get(path).lines:
        if "=" in line:
            line = line.partition("=")[0] + "/"
        if line.endswith("/"):
            found |= crawl(client, path + line)
        else:
            reply = client.get(path + line)
            assert reply.status == 200, path + line
            found[path + line] = reply.body
    return found


@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
    rate=st.floats(0.1, 20),
    burst=st.integers(1, 10),
)
def test_in_no_span_of_time_are_there_more_requests_than_the_limits_say(steps, rate, burst):
    limits, allowance, now = Limits(rate=rate, burst=burst), Allowance(), 1000.0
    taken: list[float] = []
    for step in steps:
        now += step
        wait = allowance.take(limits, now)
        if wait == 0:
            taken.append(now)
        else:
            assert 0 < wait <= 1 / rate + 1e-6
    for first, start in enumerate(taken):
        for last, end in enumerate(taken[first:], first):
            assert last - first + 1 <= burst + (end - start) * rate + 1e-6
