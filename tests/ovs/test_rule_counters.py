# SPDX-License-Identifier: Apache-2.0
"""Counters as both backends of iptables print them, in a namespace of the test's own.  Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.command import CommandRunner
from agent.core import naming
from agent.core.filter_report import Count
from agent.drivers.rule_counters import SAVE_COMMANDS, read_rule_counters

CLONE_NEWNET = 0x40000000
FIRST, SECOND = naming.short_hash("first"), naming.short_hash("second")
RULES = f"""*filter
:hp-g-0123-i - [0:0]
:hp-p-0123-i - [0:0]
:hp-other - [0:0]
-A hp-g-0123-i -p udp -m udp --dport 80 -m comment --comment "hp:{FIRST}" -j ACCEPT
-A hp-g-0123-i -p udp -m udp --dport 81 -m comment --comment "hp:{SECOND}" -j ACCEPT
-A hp-p-0123-i -m conntrack --ctstate INVALID -j DROP
-A hp-p-0123-i -j hp-g-0123-i
-A hp-p-0123-i -j DROP
-A OUTPUT -p udp -m comment --comment "hp:{FIRST}" -j hp-p-0123-i
-A OUTPUT -m comment --comment "of somebody else" -j DROP
COMMIT
"""


@pytest.fixture
def namespace() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    yield
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


def send(address: str, port: int) -> None:
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"1234", (address, port))
        except PermissionError:
            return  # dropped in OUTPUT


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_packets_are_counted_by_rule_and_where_they_are_dropped(namespace, backend, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    for family in ("iptables", "ip6tables"):
        command = (f"{family}-{backend}-restore",)
        subprocess.run(command, input=RULES, text=True, check=True)
    commands = [(name.replace("-save", f"-{backend}-save"), *words) for name, *words in SAVE_COMMANDS]
    before = read_rule_counters(CommandRunner(), commands)
    assert before.rules == {FIRST: Count(), SECOND: Count()}
    assert before.drops == {"hp-p-0123-i": Count()}
    send("127.0.0.1", 80)
    send("::1", 80)
    send("127.0.0.1", 82)
    after = read_rule_counters(CommandRunner(), commands)
    udp4, udp6 = 20 + 8 + 4, 40 + 8 + 4
    assert after.rules == {FIRST: Count(2, udp4 + udp6), SECOND: Count()}
    assert after.drops == {"hp-p-0123-i": Count(1, udp4)}
