# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: pings between instances of a whole sandbox, all at once."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

from agent.core.errors import ApplyError
from agent.sandbox.host import agent_environment
from agent.sandbox.layout import UPSTREAM
from agent.sandbox.machine import Machine
from agent.sandbox.probe import KEY_BYTES
from agent.sandbox.sandbox import Sandbox

SECONDS = 1.0  # how long an answer may take
_GRACE = 20.0  # seconds for the programs to start and to end


@dataclass(frozen=True, slots=True)
class Ping:
    """What came of the echo requests of an instance, or the router beyond, to an address.

    Where they arrived, if an answer came back, and from what address they seemed to come where they arrived.
    """

    source: str
    address: str
    arrived_at: frozenset[str]
    answered: bool
    seen_from: frozenset[str] = frozenset()


def ping_all(sandbox: Sandbox, asks: Iterable[tuple[str, str]], seconds: float = SECONDS) -> list[Ping]:
    """Send echo requests for each (instance, address) of *asks* at the same time; tell what came of each.

    InputError when there is no such instance, ApplyError when a host could not ask.
    """
    numbered = list(enumerate(asks))
    hosts = {source: sandbox.resolve(source).host for _, (source, _) in numbered}
    key = secrets.token_hex(KEY_BYTES)
    machines: list[Machine] = [*sandbox.hosts, *((sandbox.upstream,) if sandbox.upstream is not None else ())]
    programs = []
    try:
        for host in machines:
            order = {
                "key": key,
                "here": UPSTREAM if host is sandbox.upstream else "",
                "instances": host.instances(),
                "asks": [(number, *ask) for number, ask in numbered if hosts[ask[0]] is host],
                "seconds": seconds,
            }
            argv = sandbox.argv(sandbox.resolve(host.name), [sys.executable, "-m", "agent.sandbox.probe"])
            programs.append(_Program(host.name, argv, json.dumps(order)))
        for program in programs:
            program.wait_ready()
        for program in programs:
            program.go()
        answers = [program.answer(seconds + _GRACE) for program in programs]
    finally:
        for program in programs:
            program.end()
    heard: dict[int, set[tuple[str, str]]] = {number: set() for number, _ in numbered}
    for answer in answers:
        for number, name, sender in answer.arrived:
            heard[number].add((name, sender))
    answered = {number for answer in answers for number in answer.answered}
    return [
        Ping(
            source,
            address,
            frozenset(name for name, _ in heard[number]),
            number in answered,
            frozenset(sender for _, sender in heard[number]),
        )
        for number, (source, address) in numbered
    ]


@dataclass(frozen=True, slots=True)
class _Answer:
    arrived: list[tuple[int, str, str]]
    answered: list[int]


class _Program:
    """One host's probe."""

    def __init__(self, host: str, argv: list[str], order: str) -> None:
        self._host = host
        pipe = subprocess.PIPE
        environment = {**os.environ, **agent_environment()}
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        self._tell(order)

    def wait_ready(self) -> None:
        if _pipe(self._process.stdout).readline() != "ready\n":
            raise ApplyError(f"{self._host}: cannot ping: {_pipe(self._process.stderr).read().strip()}")

    def go(self) -> None:
        self._tell("go")

    def answer(self, timeout: float) -> _Answer:
        errors = ""
        try:
            output, errors = self._process.communicate(timeout=timeout)
            heard = json.loads(output)
        except (subprocess.TimeoutExpired, ValueError):
            raise ApplyError(f"{self._host}: pinging did not end well: {errors.strip()}") from None
        return _Answer([(number, name, sender) for number, name, sender in heard["arrived"]], heard["answered"])

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _tell(self, line: str) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(f"{line}\n")
        pipe.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("the program was started without this pipe")
    return pipe
