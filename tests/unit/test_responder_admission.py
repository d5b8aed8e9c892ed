# SPDX-License-Identifier: Apache-2.0
"""Who may connect to the metadata service when all that there is room for is taken.

In processes of their own, because this one must not import eventlet; on loopback
addresses, each of which is an alias.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """
import socket, time
from dataclasses import replace
from agent.metadata.data import ContentData, MetadataData, ServiceData, Limits, encode_metadata, encode_service
from agent.responder import green, metadata_server
from agent.responder.counters import Counters
from agent.responder.knowledge import Knowledge
from agent.responder.nova_client import NovaClient

knowledge, counters = Knowledge(), Counters()
server = metadata_server.MetadataServer(knowledge, counters, NovaClient())
knowledge.on_alias_lost = server.close_alias
for name in "ab":
    aliases = tuple((f"127.0.{ord(name)}.{n}", f"10.0.0.{n}") for n in (1, 2))
    data = MetadataData(name, name, "network", "fa:16:3e:00:00:01", name, "project", aliases,
                        content=ContentData(user_data=name.encode()))
    knowledge.put(f"metadata {name}", "1", encode_metadata(data))
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
green.spawn("listener", server.accept_from, listener, fatal=True)

def connect(name, alias=1):
    opened = socket.create_connection(listener.getsockname(), source_address=(f"127.0.{ord(name)}.{alias}", 0))
    opened.setblocking(False)
    green.sleep(0.02)
    return opened

def ask(opened):
    try:
        green.send_all(opened, b"GET /latest/user-data HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", 1)
        return green.recv(opened, 9999, 2).rpartition(b"\\r\\n")[2].decode() or "ended"
    except ConnectionError:
        return "ended"
"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_when_there_is_no_room_who_has_most_gives_way_and_not_who_comes():
    assert run(
        """
metadata_server.AT_ONCE = 6
many = [connect("a") for _ in range(6)]
late = connect("b")
print(ask(late), ask(many[0]), ask(many[5]), server.open)
again = connect("a")
print(ask(again), server.open, server.connections_of("metadata a"), server.connections_of("metadata b"))
"""
    ) == ["b ended a 6", "ended 6 5 1"]


def test_what_is_held_for_requests_that_are_not_whole_is_bounded_over_all_ports():
    assert run(
        """
metadata_server.HELD = 100_000
slow = [connect("a") for _ in range(4)]
for opened in slow:
    opened.send(b"POST /latest/user-data HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 60000\\r\\n\\r\\n" + bytes(40_000))
green.sleep(0.1)
print(server.open, server._held <= 100_000, ask(connect("b")))
for opened in slow:
    opened.close()
green.sleep(0.1)
print(server.open, server._held)
"""
    ) == ["2 True b", "0 0"]


def test_connections_of_an_alias_end_when_it_stands_for_something_else():
    assert run(
        """
first, second, other = connect("a", 1), connect("a", 2), connect("b")
data = knowledge.metadata_port("metadata a").data
changed = encode_metadata(data) | {"aliases": [[data.aliases[0][0], "10.0.0.9"], list(data.aliases[1])]}
knowledge.put("metadata a", "2", changed)
print(server.connections_of("metadata a"), ask(second), ask(other))
knowledge.delete("metadata a")
print(server.connections_of("metadata a"), ask(other), ask(second))
server.forget_ports()
print(len(server._ledgers))
"""
    ) == ["1 a b", "0 b ended", "1"]


SLOW = """
data = knowledge.metadata_port("metadata a").data
content = replace(data.content, user_data=b"secret" * 100_000)
knowledge.put("metadata a", "2", encode_metadata(replace(data, content=content)))

def ask_slowly(*headers):
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.bind(("127.0.97.1", 0))
    opened.connect(listener.getsockname())
    opened.setblocking(False)
    opened.send(b"\\r\\n".join((b"GET /latest/user-data HTTP/1.1", b"Host: x", *headers, b"", b"")))
    green.sleep(0.1)
    return opened

def take_all(opened):
    opened.send(b"GET /latest/user-data HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    found = b""
    while len(found) < 600_000:
        found += green.recv(opened, 1 << 20, 5)
    return found

def take(opened, most):
    octets = 0
    try:
        while octets < most and (part := green.recv(opened, 65536, 5)):
            octets += len(part)
    except ConnectionResetError:
        return "reset"
    return octets >= most or "ended"
"""


def test_what_a_port_has_not_taken_is_not_sent_on_to_the_next_that_has_its_alias():
    assert run(
        SLOW
        + """
slow = ask_slowly()
knowledge.delete("metadata a")
print(server.open, take(slow, 600_000))
"""
    ) == ["0 reset"]


def test_of_a_connection_whose_alias_is_lost_nothing_stays_in_the_kernel():
    """In order it would end with a FIN, which is sent for minutes to whoever has the alias by then."""
    assert run(
        SLOW
        + """
idle, full = connect("a", 1), connect("a", 2)
print(len(take_all(idle)) > 100_000)
knowledge.delete("metadata a")
print(server.open, take(idle, 1), take(full, 1))
"""
    ) == ["True", "0 reset reset"]


def test_a_connection_is_counted_until_its_answer_is_taken_and_then_ends_in_order():
    assert run(
        SLOW
        + """
slow = ask_slowly(b"Connection: close")
print(take(slow, 550_000), end=" ")
green.sleep(1.5)  # the rest is in the kernel's hands, and nothing more is expected of the client
print(server.open, take(slow, 100_000), end=" ")
green.sleep(0.3)
print(server.open)
kept = ask_slowly()
server.drain()
green.sleep(0.1)
print(server.open, take(kept, 600_000))
"""
    ) == ["True 1 ended 0", "1 True"]
