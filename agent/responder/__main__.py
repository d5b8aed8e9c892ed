# SPDX-License-Identifier: Apache-2.0
"""``hostplane-responder``: answers DHCP, router and neighbor solicitations and metadata requests, without privileges.

Started by systemd, or by the agent with the listening socket as an inherited descriptor.
Exit status: 0 after SIGTERM or when drained, 2 if it cannot start, 1 for a bug.
"""

from __future__ import annotations

import argparse
import encodings.idna  # looked up when a name is resolved, when modules cannot be read any more
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from agent import logs
from agent.core.errors import AgentError, ConfigError
from agent.responder import green, privileges
from agent.responder.control import Control
from agent.responder.data_file import DataFile, open_folder
from agent.responder.fd_store import FdStore, take_passed
from agent.responder.service import DRAIN, Service
from agent.status.sdnotify import Notifier

__all__ = ["encodings", "main"]

LOG = logging.getLogger("agent.responder")

FEEDS_PER_LIMIT = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the responder; *argv* without the program's name."""
    arguments = _parser().parse_args(argv)
    try:
        logs.setup(arguments.log_level)
        _run(arguments)
    except AgentError as err:
        print(f"hostplane-responder: {err}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hostplane-responder", description=__doc__)
    parser.add_argument("--listen-fd", type=int, metavar="N", help="descriptor that agents connect to")
    parser.add_argument(
        "--state-dir", type=Path, required=True, help="directory of its own, made if need be and given to --user"
    )
    parser.add_argument("--user", help="system user to become; needed when started as root")
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=DRAIN,
        help="that open requests get to end when it is to end; less where nobody takes over before it has ended",
    )
    parser.add_argument("--log-level", default="info", choices=sorted(logs.LEVELS))
    return parser


def _run(arguments: argparse.Namespace) -> None:
    """Take over what there is, give up what is not needed, and answer until the end."""
    store = FdStore(os.environ.get("NOTIFY_SOCKET"))
    notifier = Notifier.from_environment()
    passed = take_passed()
    listener = _listener(arguments.listen_fd, passed.listening)
    account = privileges.find_account(arguments.user) if arguments.user is not None else None
    folder = open_folder(arguments.state_dir, account)
    privileges.drop(account)
    service = Service(DataFile(folder), store, arguments.drain_seconds)
    _take_signals(service)
    service.start(passed.stored)
    control = green.spawn("hand-over", Control(service).accept_from, listener, fatal=True)
    if notifier.watchdog_seconds is not None:
        green.spawn("watchdog", _feed, notifier, notifier.watchdog_seconds / FEEDS_PER_LIMIT, fatal=True)
    gc.collect()
    gc.freeze()  # modules stay; no collection looks at them again
    notifier.ready("answering")
    service.done.wait()
    notifier.stopping("drained")
    control.kill()
    LOG.info("ended")


def _listener(number: int | None, passed: Sequence[int]) -> socket.socket:
    numbers = (*((number,) if number is not None else ()), *passed)
    if len(numbers) != 1:
        raise ConfigError(f"{len(numbers)} sockets to listen on were given, not one: use --listen-fd or a socket unit")
    try:
        listener = socket.socket(fileno=numbers[0])
        listener.set_inheritable(False)
        listener.setblocking(False)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as err:
        raise ConfigError(f"descriptor {numbers[0]} cannot be listened on: {err.strerror}") from None
    if listener.family != socket.AF_UNIX or not listens:
        raise ConfigError(f"descriptor {numbers[0]} is not a unix socket that listens")
    return listener


def _take_signals(service: Service) -> None:
    """Let SIGTERM and SIGINT drain, and a second one end at once."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def obey() -> None:
        asked = 0
        while True:
            numbers = green.recv(reader, 64)
            asked += sum(number in (signal.SIGTERM, signal.SIGINT) for number in numbers)
            if asked == 1:
                service.drain()
            elif asked and not service.done.ready():
                service.done.send(0)
            assert writer  # noqa: S101 - it has to live as long as signals are taken

    green.spawn("signals", obey, fatal=True)


def _feed(notifier: Notifier, seconds: float) -> None:
    while True:
        notifier.feed_watchdog()
        green.sleep(seconds)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has the signal's number."""
    del number, frame


if __name__ == "__main__":
    sys.exit(main())
