# SPDX-License-Identifier: Apache-2.0
"""Throw broken requests at the metadata service for a while: ``python -m tests.fuzz.metadata_http --seconds 600``.

Requests as clients send them, and as those who smuggle do, are mutated and joined.  A
second reader, which knows nothing of h11 and lets nothing pass that RFC 9112 does not
say, reads the same octets.  It is a failure if a request is answered that it does not
see, if it matters how the octets are cut, if Nova is asked anything but one signed
request without a word of the client's that could mean something, if what comes out is
not answers, or if memory grows.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.unit.metadata_client import NOVA_PORT, PORT, SERVICE, Client, Nova, read_reply, request

ID = "/latest/meta-data/instance-id"
CHUNKED = "Transfer-Encoding: chunked"
REFUSED = frozenset({400, 413, 414, 431, 505})
FIELDS = frozenset(
    {
        *("host", "x-instance-id", "x-tenant-id", "x-instance-id-signature", "x-forwarded-for"),
        *("accept", "content-type", "user-agent", "content-length"),
    }
)
SIGNED = {"x-instance-id": NOVA_PORT.instance_id, "x-tenant-id": "tenant-a", "x-forwarded-for": "10.0.0.5"}
SPICE = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"%2e%2e/",
        b"../",
        b"//",
        b"%00",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"content-length : 3\r\n"),
    *(b"Connection: close\r\n", b"Host: x\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"X: y\r\n z\r\n"),
    *(b"X-Instance-ID: evil\r\n", b"X_Tenant_ID: evil\r\n", b"Connection: X-Instance-ID\r\n", b"User-Agent: a\r\n"),
    *(
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"1;x=y\r\n!\r\n",
        b"ffffffff\r\n",
        b"0\r\nX: y\r\n\r\n",
        b" " * 3000,
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"GET ",
    ),
    *(
        b"POST ",
        b"HEAD ",
        b"CONNECT ",
        b"PUT ",
        b"http://x/",
        b"*",
        b"#",
        b"?a=b",
        b"\x85",
        b"\x0b",
        b"\xff",
        b"x" * 3000,
    ),
)


def corpus() -> list[bytes]:
    """Return requests as clients send them, and some that have been trouble to servers."""
    plain = [
        request(path) for path in ("/", ID, "/latest/meta-data/", "/openstack", "/openstack/latest/user_data", "/no")
    ]
    usual = request(ID, headers=["User-Agent: Cloud-Init/22.4.2", "Accept-Encoding: gzip", "Accept: */*"])
    bodies = [
        request("/openstack/latest/password", "POST", body=b"hello"),
        request(ID, "POST", [CHUNKED]) + b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
        request(ID, "PUT", ["Expect: 100-continue"], b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"),
        request("/latest/api/token", "PUT", ["X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0"]),
    ]
    smuggled = request("/smuggled")
    trouble = [
        request(ID, "POST", ["Content-Length: 5", CHUNKED]) + b"0\r\n\r\n" + smuggled,
        request(ID, "POST", [CHUNKED, "Content-Length: 5"]) + b"0\r\n\r\n" + smuggled,
        request(ID, "POST", ["Content-Length: 5", "Content-Length: 6"]) + b"hello" + smuggled,
        request(ID, "POST", ["Transfer-Encoding: xchunked"]) + b"0\r\n\r\n" + smuggled,
        request(ID, "POST", [CHUNKED]) + b"0\r\n\n" + smuggled,
        request(ID, headers=["Connection: Upgrade", "Upgrade: h2c"]) + smuggled,
        request(ID, headers=["X-Instance-ID: evil", "X-Forwarded-For: evil", "X_Instance_ID: evil"]),
        f"GET {ID} HTTP/1.0\r\n\r\n".encode() + smuggled,
        request(ID, "HEAD") + smuggled,
        request("/" + "x" * 2040),
        *map(
            request,
            ("/latest/%2e%2E/x", "/a/../b", "/./a", "//a//b/", "/a%2fb", "/a%5cb?c=/../d", "/a%00", "/%252e%252e"),
        ),
        request(ID, headers=["X: " + "y" * 16000]),
        request(ID, headers=["X: y"] * 99),
    ]
    return [*plain, usual, *bodies, *trouble]


def mutate(octets: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return *octets* broken in up to five places, perhaps with a piece of *other*."""
    found = bytearray(octets)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(found) + 1)
        if rng.random() < 0.5:  # where it hurts: at the end of a line
            ends = [match.end() for match in re.finditer(rb"\r\n", found)] or [at]
            at = rng.choice(ends)
        match rng.randrange(7):
            case 0:
                found[at : at + 1] = bytes((rng.randrange(256),))
            case 1 | 2:
                found[at:at] = rng.choice(SPICE)
            case 3:
                del found[at : at + rng.choice((1, 1, 2, rng.randrange(1, 40)))]
            case 4:
                found[at:at] = found[at : at + rng.randrange(1, 100)]
            case 5:
                start = rng.randrange(len(other))
                found[at:at] = other[start : start + rng.randrange(1, 200)]
            case _:
                found[at : at + 10] = found[at : at + 10].swapcase()
    return bytes(found)


_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):([^\0-\x08\n-\x1f\x7f]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,20})(?:;[\t -~]*)?\r\n")


def read_strictly(octets: bytes) -> list[tuple[str, str]]:
    """Return method and target of the requests that are whole and beyond doubt, up to the first that is not."""
    found: list[tuple[str, str]] = []
    while True:
        octets = octets.removeprefix(b"\r\n")
        head, end, rest = octets.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        line, fields = _LINE.fullmatch(lines[0]), [_FIELD.fullmatch(each) for each in lines[1:]]
        if not end or line is None:
            return found
        pairs = [(each[1].lower(), each[2].strip(b" \t")) for each in fields if each is not None]
        framing = [(name, value) for name, value in pairs if name in (b"content-length", b"transfer-encoding")]
        hosts = sum(name == b"host" for name, _ in pairs)
        if len(pairs) < len(fields) or len(framing) > 1 or hosts > 1 or (hosts == 0 and line[3] != b"0"):
            return found
        after = _skip_body(framing, rest)
        if after is None or (line[3] == b"0" and framing[:1] and framing[0][0] == b"transfer-encoding"):
            return found
        found.append((line[1][:16].decode(), line[2].decode()))
        options = b",".join(value.lower() for name, value in pairs if name == b"connection").split(b",")
        if line[3] == b"0" or b"close" in [option.strip() for option in options]:
            return found
        octets = after


def _skip_body(framing: list[tuple[bytes, bytes]], rest: bytes) -> bytes | None:
    if not framing:
        return rest
    name, value = framing[0]
    if name == b"content-length":
        return rest[int(value) :] if re.fullmatch(rb"[0-9]{1,15}", value) and len(rest) >= int(value) else None
    if value.lower() != b"chunked":
        return None
    while chunk := _CHUNK.match(rest):
        size = int(chunk[1], 16)
        rest = rest[chunk.end() :]
        if rest[size : size + 2] != b"\r\n":
            return None
        rest = rest[size + 2 :]
        if size == 0:
            return rest
    return None


def check_question(octets: bytes) -> None:
    """Raise AssertionError unless *octets* are one request, signed, with nothing of the client's that could matter."""
    head, end, body = octets.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert end
    assert not re.search(rb"[^\t\r\n -~]", head), "what is not plain text goes to Nova"
    assert re.fullmatch(rb"(GET|HEAD|POST|PUT) /[!-~]* HTTP/1\.1", lines[0]), lines[0]
    path = lines[0].split(b" ")[1].partition(b"?")[0].lower()
    assert not re.search(rb"//|(^|/)(\.|%2e){1,2}(/|$)|%2f|%5c|%00|\\|#", path), path
    pairs = [line.decode().split(": ", 1) for line in lines[1:]]
    fields = {name.lower(): value for name, value in pairs}
    assert fields.keys() <= FIELDS, fields
    assert SIGNED.items() <= fields.items(), fields
    for name in (*SIGNED, "host", "x-instance-id-signature", "content-length"):
        assert sum(each[0].lower() == name for each in pairs) <= 1, f"{name} is said twice"
    assert len(body) == int(fields.get("content-length", "0")), "the body is framed wrongly"


def check(octets: bytes, cuts: list[int], *, nova: bool) -> Counter[int]:
    """Return how often each status was answered to *octets*; raise AssertionError if that must not be."""
    outcomes = []
    for places in ([], cuts):
        client = Client(NOVA_PORT if nova else PORT, SERVICE, Nova())
        heard = bytearray()
        for start, stop in zip([0, *places], [*places, len(octets)], strict=True):
            if octets[start:stop]:
                heard += client.say(octets[start:stop])
        if not client.connection.idle:
            heard += client.time_out()
        for question in client.nova.asked:
            check_question(question)
        _check_replies(bytes(heard), client)
        answered = [(each.method, each.target, each.status) for each in client.answered]
        refused = client.lingers and answered[-1][2] in REFUSED | {408}
        outcomes.append((answered[:-1] if refused else answered, client))
    (served, client), (again, _) = outcomes
    assert served == again, f"it matters how they are cut: {served} {again}"
    seen = read_strictly(octets)
    assert [each[:2] for each in served] == seen[: len(served)], f"not all would see {served}"
    assert len(served) == len(seen) or client.answered[-1].status in REFUSED, "a whole request has no answer"
    return Counter(each.status for each in client.answered)


def _check_replies(octets: bytes, client: Client) -> None:
    for number, answered in enumerate(client.answered):
        reply, octets = read_reply(octets, answered.method)
        while reply.status == 100:
            reply, octets = read_reply(octets, answered.method)
        assert reply.status == answered.status
        last = number == len(client.answered) - 1
        closing = reply.headers.get("connection") == "close"
        assert last or not closing, "something is answered after the end"
        assert closing or answered.status not in REFUSED or answered.target.startswith("/latest/api/token")
    if octets:
        assert read_reply(octets)[0].status == 100


@dataclass
class Outcome:
    """How often each status was answered, to how many inputs, and the longest that one took, in seconds."""

    inputs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0


def run(seconds: float, seed: int, limit: int = 1 << 62) -> Outcome:
    """Fuzz for *seconds* of time, at most *limit* inputs."""
    rng = random.Random(seed)
    seeds = corpus()
    outcome = Outcome()
    deadline = time.monotonic() + seconds
    while outcome.inputs < limit and time.monotonic() < deadline:
        joined = b"".join(rng.choice(seeds) for _ in range(rng.choice((1, 1, 2, 3))))
        octets = mutate(joined, rng.choice(seeds), rng) or b"\r"
        cuts = sorted(rng.sample(range(len(octets)), min(len(octets), rng.choice((1, 2, 5, 40)))))
        start = time.thread_time()
        try:
            outcome.statuses += check(octets, cuts, nova=rng.random() < 0.5)
        except Exception as error:
            raise AssertionError(f"seed {seed}: cuts {cuts}: {octets!r}") from error
        outcome.slowest = max(outcome.slowest, time.thread_time() - start)
        outcome.inputs += 1
    return outcome


def resident() -> int:
    """Return the process's resident memory in octets."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    run(min(5, arguments.seconds / 10), arguments.seed)
    before = resident()
    outcome = run(arguments.seconds, arguments.seed)
    grown = resident() - before
    print(f"seed {arguments.seed}: {outcome.inputs} inputs, {outcome.statuses.total()} answers, "
          f"slowest {outcome.slowest * 1e3:.2f} ms, memory {grown / 1024:+.0f} KiB")  # fmt: skip
    for status, count in sorted(outcome.statuses.items()):
        print(f"  {status} {count}")
    if grown > 4 << 20:
        raise SystemExit("memory has grown")


if __name__ == "__main__":
    main()
