# SPDX-License-Identifier: Apache-2.0
"""What functional tests do with a sandbox: run commands in it, ask who reaches whom, look at frames."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agent.cli.yaml_file import parse_file
from agent.sandbox.instances import bring_up
from agent.sandbox.sandbox import Sandbox, remove
from agent.store.records import Written
from agent.store.writer import Writer

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
_numbers = itertools.count(1)


def unique_name() -> str:
    """Return a sandbox name that nobody else has."""
    return f"t{os.getpid()}-{next(_numbers)}"


def hostplane(
    *words: str, stdin: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the ``hostplane`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        check=False,
    )


def eventually(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Wait until *condition* holds; fail after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class EchoReport:
    """What a stream of echo requests saw; times are of CLOCK_MONOTONIC, in seconds."""

    sent: list[float]
    unsendable: int
    lost: list[float]
    duplicates: int
    arrivals: list[float]
    longest_gap: tuple[float, float]  # how long, and since when

    def summary(self) -> str:
        """Return the figures in a line."""
        gap = f"longest gap {self.longest_gap[0] * 1000:.0f} ms"
        return f"{len(self.sent)} sent, {len(self.lost)} lost, {self.duplicates} duplicates, {gap}"

    def losses_by_second(self) -> dict[int, int]:
        """Return how many were lost in each second since the start, where any were."""
        return dict(sorted(Counter(int(moment - self.sent[0]) for moment in self.lost).items()))

    def first_reply_after(self, moment: float) -> float:
        """Return when the first reply after *moment* came."""
        return next(arrival for arrival in self.arrivals if arrival > moment)


class EchoStream:
    """Echo requests at a steady rate from one instance to an address, until ``stop``."""

    def __init__(self, lab: Lab, source: str, address: str, rate: int = 1000) -> None:
        self._rate = rate
        self._process = lab.start(source, sys.executable, str(HERE / "echo_stream.py"), address, str(rate))

    def wait_flowing(self) -> None:
        """Wait until the first hundred replies have come."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "flowing\n", "no replies came"

    def finish(self) -> None:
        """Send no more; of several streams, ``stop`` then waits for the stragglers of all at once."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None

    def stop(self) -> EchoReport:
        """End the stream, wait for stragglers, and check that the stream itself kept its rate."""
        output, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        report = EchoReport(**json.loads(output.rpartition("\n")[2]))
        span = report.sent[-1] - report.sent[0]
        assert len(report.sent) >= span * self._rate / 2, "the machine was too busy to send half of the requests"
        return report


class Capture:
    """Frames that arrive at an instance's device."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self._output: IO[str] = process.stdout

    def until(self, last: Callable[[bytes], bool], timeout: float = 5.0) -> list[bytes]:
        """Return the frames up to the one that *last* accepts, that one included."""
        watchdog = _Deadline(self._process, timeout)
        frames = []
        for line in self._output:
            frames.append(bytes.fromhex(line))
            if last(frames[-1]):
                watchdog.cancel()
                return frames
        raise AssertionError(f"the frame that was waited for did not arrive within {timeout:g} s")


class _Deadline:
    """Ends a process when time is up, so that reading from it does not wait for ever."""

    def __init__(self, process: subprocess.Popen[str], timeout: float) -> None:
        import threading

        self._timer = threading.Timer(timeout, process.kill)
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()


class Lab:
    """A sandbox, and what can be asked of it.  Places are hosts or instances, by name."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._writer: Writer | None = None

    @property
    def writer(self) -> Writer:
        """A writer of the sandbox's store."""
        if self._writer is None:
            self._writer = Writer.connect([self.sandbox.paths.store_address])
        return self._writer

    def close(self) -> None:
        """Take everything down."""
        if self._writer is not None:
            self._writer.close()
        remove(self.sandbox.name)

    def bring_up(self, text: str) -> None:
        """Apply a file and make an instance for each of its ports; all must come up."""
        done = bring_up(self.sandbox, parse_file(text.encode(), "test"))
        assert done.exit_status == 0, done

    def address(self, port: str, version: int = 4) -> str:
        """Return the address of a port."""
        addresses = (ipaddress.ip_address(fixed.address) for fixed in self.writer.get_port(port).fixed_ips)
        return next(str(address) for address in addresses if address.version == version)

    def mac(self, port: str) -> str:
        """Return the MAC address of a port."""
        return self.writer.get_port(port).mac_address

    def applied(self, written: Written[Any]) -> None:
        """Wait until what was written is in force on the hosts that it concerns."""
        done = self.writer.wait_applied(written, 30)
        assert not done.missing, done

    def ready(self, written: Written[Any]) -> None:
        """Wait until what was written works on the hosts that it concerns."""
        done = self.writer.wait_applied(written, 30)
        assert done.exit_status == 0, done

    def argv(self, place: str, *command: str) -> list[str]:
        return self.sandbox.argv(self.sandbox.resolve(place), command)

    def run(self, place: str, *command: str, stdin: str = "", timeout: float = 30) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.sandbox.resolve(place).host.environment()}
        return subprocess.run(
            self.argv(place, *command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )

    def output(self, place: str, *command: str, stdin: str = "") -> str:
        done = self.run(place, *command, stdin=stdin)
        assert done.returncode == 0, f"{place}: {' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def start(self, place: str, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv(place, *command), stdin=pipe, stdout=pipe, text=True)

    def wait_port(self, port: str, *, up: bool) -> None:
        """Wait until the port's host says that it is up, or that it is not."""
        eventually(lambda: self.writer.get_port(port).up is up, f"port {port} is {'up' if up else 'down'}")

    def ping(self, source: str, address: str, *options: str, wait: float = 1.0) -> bool:
        """Tell whether one echo request is answered within *wait* seconds."""
        return self.run(source, "ping", "-n", "-q", "-c1", f"-W{wait}", *options, address).returncode == 0

    def assert_connection(self, source: str, address: str, timeout: float = 10.0) -> None:
        eventually(lambda: self.ping(source, address, wait=0.3), f"{source} reaches {address}", timeout)

    def assert_no_connection(self, source: str, address: str) -> None:
        """Fail if any of a few echo requests is answered."""
        done = self.run(source, "ping", "-n", "-q", "-c4", "-i0.1", "-W0.5", address)
        assert done.returncode != 0, f"{source} reaches {address}: {done.stdout}"

    def send(self, source: str, frames: Iterable[bytes], device: str = "eth0") -> None:
        lines = "".join(f"{frame.hex()}\n" for frame in frames)
        self.output(source, sys.executable, str(HERE / "frames.py"), "send", device, stdin=lines)

    @contextlib.contextmanager
    def capture(self, place: str, device: str = "eth0") -> Iterator[Capture]:
        process = self.start(place, sys.executable, str(HERE / "frames.py"), "capture", device)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Capture(process)
        finally:
            process.kill()
            process.communicate()
