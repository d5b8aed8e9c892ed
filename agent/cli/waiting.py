# SPDX-License-Identifier: Apache-2.0
"""``--wait``: until every host that a change concerns has applied it, or has said why not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TypeVar

from agent.cli.options import seconds
from agent.cli.output import complain
from agent.store.records import Written
from agent.store.writer import Writer

DEFAULT_WAIT = 30.0  # seconds
MOST_NAMED = 20  # ports, and routers, that failed of one change
UNKNOWN_HOST = "no agent of that name has ever been heard of (is the name right, and is it its [DEFAULT] host?)"
R = TypeVar("R")


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add ``--wait`` and ``--wait-timeout``."""
    text = "return when the hosts concerned have applied it and its routers work (exit 3: objects failed, 4: no answer)"
    parser.add_argument("--wait", action="store_true", help=text)
    text = f"how long --wait waits ({DEFAULT_WAIT:g})"
    parser.add_argument("--wait-timeout", type=seconds, default=DEFAULT_WAIT, metavar="SECONDS", help=text)


def wait(args: argparse.Namespace, writer: Writer, written: Sequence[Written[R]]) -> int:
    """Wait if that was asked for; name what failed on standard error and return the exit status."""
    if not args.wait:
        return 0
    deadline = time.monotonic() + args.wait_timeout
    statuses = [0]
    for one in written:
        applied = writer.wait_applied(one, max(0.0, deadline - time.monotonic()))
        for failure in applied.failures[:MOST_NAMED]:
            state = "not up on" if not failure.up else "up, but not as it should be, on"
            complain(f"port {failure.name or failure.id}: {state} {failure.host}: {failure.reason}")
        if len(applied.failures) > MOST_NAMED:
            complain(f"and {len(applied.failures) - MOST_NAMED} ports more")
        for router in applied.router_failures[:MOST_NAMED]:
            state = "not ready on" if not router.ready else "ready, but not as it should be, on"
            complain(f"router {router.name or router.id}: {state} {router.host}: {router.reason}")
        if len(applied.router_failures) > MOST_NAMED:
            complain(f"and {len(applied.router_failures) - MOST_NAMED} routers more")
        known = {host.name for host in writer.list_hosts()} if applied.missing else set()
        for host in applied.missing:
            late = f"did not apply revision {applied.revision} within {args.wait_timeout:g} s"
            complain(f"host {host}: {late if host in known else UNKNOWN_HOST}")
        statuses.append(applied.exit_status)
    return max(statuses)
