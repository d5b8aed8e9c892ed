# SPDX-License-Identifier: Apache-2.0
"""The packet log on the real kernel: packets through a bridge in a namespace of the test's own.  Needs root."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from agent.core import naming
from agent.core.model import (
    Direction,
    HostName,
    HostSnapshot,
    NetworkId,
    Port,
    PortId,
    SecurityGroup,
    SecurityGroupId,
    SecurityGroupRule,
)
from agent.drivers import nflog
from agent.drivers.nflog import LogSocket
from agent.drivers.packet_log import PacketLog

CLONE_NEWNET = 0x40000000
DEADLINE = 5.0

PORT = Port(
    PortId("5f0c7f1e-0000-4000-8000-000000000001"), "vm1", NetworkId("n"), "fa:16:3e:00:00:01", (), filtered=True,
    security_groups=(SecurityGroupId("web-id"),),
)  # fmt: skip
RULES = (
    SecurityGroupRule("rule-in", Direction.INGRESS, 4, 17, 80, 80),
    SecurityGroupRule("rule-out", Direction.EGRESS, 4, 17, 53, 53),
)
WEB = SecurityGroup(SecurityGroupId("web-id"), "web", rules=RULES, log_accepted=True, log_dropped=True)
SNAPSHOT = HostSnapshot(
    HostName("host1"), in_sync=True, ports={PORT.id: PORT}, security_groups={SecurityGroupId("web-id"): WEB}
)
QUIET = replace(SNAPSHOT, security_groups={WEB.id: replace(WEB, log_accepted=False, log_dropped=False)})
TAP, BRIDGE, SWITCH = naming.tap_name(PORT.id), naming.hybrid_bridge_name(PORT.id), naming.hybrid_veth_names(PORT.id)[0]


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def lab() -> Iterator[None]:
    """A namespace with a hybrid bridge; the instance and the switch are the other ends of its ports."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    run("ip", "link", "add", BRIDGE, "type", "bridge", "nf_call_iptables", "1", "nf_call_ip6tables", "1")
    for inner, outer in ((TAP, "instance"), (SWITCH, "switch")):
        run("ip", "link", "add", inner, "type", "veth", "peer", "name", outer)
        run("ip", "link", "set", inner, "master", BRIDGE, "up")
        run("ip", "link", "set", outer, "up")
    run("ip", "link", "set", BRIDGE, "up")
    yield
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture
def log(lab: None, tmp_path: Path) -> Iterator[PacketLog]:
    started = PacketLog(HostName("host1"), tmp_path / "packets.json")
    yield started
    started.stop()


def log_rule(prefix: str, *match: str) -> None:
    target = ("-j", "NFLOG", "--nflog-group", str(naming.LOG_GROUP), "--nflog-prefix", prefix)
    run("iptables", "-A", "FORWARD", *match, *target)


def udp(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """An Ethernet frame from one veth's outer end to the other's: the bridge floods it."""
    payload = source_port.to_bytes(2) + destination_port.to_bytes(2) + (12).to_bytes(2) + bytes(2) + b"data"
    header = b"\x45\0" + (20 + len(payload)).to_bytes(2) + b"\0\1\0\0\x40\x11\0\0"
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(int.from_bytes(header[i : i + 2]) for i in range(0, 20, 2))
    checksum = 0xFFFF - (total % 0xFFFF)
    header = header[:10] + checksum.to_bytes(2) + header[12:]
    return bytes.fromhex("fa163e0000fffa163e0000010800") + header + payload


def send(device: str, *frames: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        for frame in frames:
            raw.send(frame)


def until(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def ready(log: PacketLog) -> None:
    until(log.is_reading, "the log never took its group")


def lines(path: Path, count: int) -> list[dict[str, object]]:
    until(lambda: path.exists() and len(path.read_text().splitlines()) >= count, f"fewer than {count} lines")
    return [json.loads(line) for line in path.read_text().splitlines()]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "packet-log"]


def test_each_packet_becomes_a_line_with_its_port_group_rule_and_direction(log, tmp_path):
    log_rule(f"a:{naming.short_hash('rule-out')}", "-m", "physdev", "--physdev-in", TAP)
    log_rule(f"d:{naming.short_hash('web-id')}", "-m", "physdev", "--physdev-in", SWITCH)
    log.follow(SNAPSHOT)
    ready(log)
    begun = time.time()
    send("instance", udp("10.0.0.1", "10.0.0.2", 4000, 53))
    (sent,) = lines(tmp_path / "packets.json", 1)
    send("switch", udp("10.0.0.2", "10.0.0.1", 4000, 81))
    received = lines(tmp_path / "packets.json", 2)[1]
    common = {
        "host": "host1",
        "port": "vm1",
        "port_id": PORT.id,
        "group": "web",
        "group_id": "web-id",
        "family": "ipv4",
    }
    assert common.items() <= sent.items()
    assert common.items() <= received.items()
    told = ("direction", "verdict", "rule_id")
    assert [sent[key] for key in told] == ["egress", "accepted", "rule-out"]
    assert [received[key] for key in told] == ["ingress", "dropped", None]
    when = datetime.fromisoformat(str(sent["time"])).timestamp()
    assert begun - 1 < when < time.time() + 1
    with LogSocketProbe() as tells:
        flow = ["udp", "10.0.0.1", "10.0.0.2", 4000, 53] if tells else [None] * 5
    assert [sent[key] for key in ("protocol", "source", "destination", "source_port", "destination_port")] == flow
    assert log.counts().logged == 2
    assert log.counts().lost == 0
    assert log.problems() == ()


class LogSocketProbe:
    """Tells whether this kernel tells the addresses of logged packets."""

    def __enter__(self) -> bool:
        self._socket = LogSocket(naming.LOG_GROUP + 1)
        return self._socket.tells_flows

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_packets_that_nobody_of_ours_has_logged_are_left_out(log, tmp_path):
    log_rule("somebody else", "-m", "physdev", "--physdev-in", TAP)
    log_rule(f"d:{naming.short_hash('web-id')}", "-m", "physdev", "--physdev-in", TAP)
    log.follow(SNAPSHOT)
    ready(log)
    send("instance", udp("10.0.0.1", "10.0.0.2", 4000, 53))
    assert [line["verdict"] for line in lines(tmp_path / "packets.json", 1)] == ["dropped"]


def test_there_is_a_thread_only_while_a_group_logs(log):
    log.follow(QUIET)
    assert threads() == []
    log.follow(SNAPSHOT)
    ready(log)
    assert threads() == ["packet-log"]
    log.follow(SNAPSHOT)
    log.follow(QUIET)
    assert threads() == []
    LogSocket(naming.LOG_GROUP).close()  # nobody has it any more
    log.follow(SNAPSHOT)
    ready(log)


def test_a_group_that_somebody_else_has_is_named_and_does_no_harm(log):
    other = LogSocket(naming.LOG_GROUP)
    log.follow(SNAPSHOT)
    until(log.problems)
    (problem,) = log.problems()
    assert str(naming.LOG_GROUP) in problem.text
    assert "another program" in problem.text
    other.close()
    ready(log)  # it tries again
    assert log.problems() == ()


def test_what_is_not_read_in_time_is_lost_counted_and_does_not_stop_the_rest(log, monkeypatch):
    monkeypatch.setattr(nflog, "RECEIVE_BUFFER", 1 << 15)
    log_rule(f"d:{naming.short_hash('web-id')}", "-m", "physdev", "--physdev-in", TAP)
    begun, go_on = threading.Event(), threading.Event()
    write = log._write

    def slow(what: list[str]) -> None:
        begun.set()
        go_on.wait(DEADLINE)
        write(what)

    log._write = slow
    log.follow(SNAPSHOT)
    ready(log)
    frame = udp("10.0.0.1", "10.0.0.2", 4000, 53)
    send("instance", frame)
    assert begun.wait(DEADLINE)
    total = 3000
    send("instance", *[frame] * (total - 1))
    go_on.set()

    def all_told() -> bool:
        send("instance", frame)  # the next number tells the gap
        counts = log.counts()
        return counts.lost > 0 and counts.logged + counts.lost >= total

    until(all_told, f"{log.counts()}")
    assert log.counts().logged > 100


def test_a_file_that_cannot_be_written_is_a_problem_until_it_can(lab, tmp_path):
    log = PacketLog(HostName("host1"), tmp_path / "later" / "packets.json")
    log_rule(f"d:{naming.short_hash('web-id')}", "-m", "physdev", "--physdev-in", TAP)
    try:
        log.follow(SNAPSHOT)
        ready(log)

        def refused() -> bool:  # a packet may be lost before it is logged: this is about the file
            send("instance", udp("10.0.0.1", "10.0.0.2", 4000, 53))
            return bool(log.problems())

        until(refused)
        assert "later/packets.json" in log.problems()[0].text
        until(lambda: log.counts().lost)
        (tmp_path / "later").mkdir()
        send("instance", udp("10.0.0.1", "10.0.0.2", 4000, 53))
        lines(tmp_path / "later" / "packets.json", 1)
        until(lambda: not log.problems())
    finally:
        log.stop()
