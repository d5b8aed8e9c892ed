# SPDX-License-Identifier: Apache-2.0
"""What ``python -m bench`` does: measure, print a table, and the figures as JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from agent.core.errors import AgentError
from bench import figures, registry
from bench.options import PORTS, QUICK_PORTS, Options


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 with a message if something could not be measured."""
    arguments = _parse(argv)
    ports = arguments.ports or (QUICK_PORTS if arguments.quick else PORTS)
    options = Options(ports, arguments.quick)
    signal.signal(signal.SIGTERM, _end)
    status = 0
    for name in arguments.name or registry.names():
        try:
            result = registry.load(name)(options)
        except AgentError as err:
            print(f"bench {name}: {err}", file=sys.stderr)
            status = 1
            continue
        if not arguments.json:
            print(figures.table(result), end="\n\n")
        print(json.dumps(result.as_json()), flush=True)
        if not arguments.json:
            print(flush=True)
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, with a floor beside each figure.")
    parser.add_argument(
        "name", nargs="*", type=_name, metavar="NAME", help=f"{', '.join(registry.names())} (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print only JSON, one object a line")
    parser.add_argument(
        "--quick", action="store_true", help="few ports, once each: shows that it works, measures little"
    )
    parser.add_argument("--ports", type=_ports, metavar="N,N", help="numbers of ports (default: 1,10,100,400)")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if text not in registry.names():
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(registry.names())}")
    return text


def _ports(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 up, as in 1,10,100")
    return tuple(sorted({int(word) for word in words}))


def _end(number: int, frame: FrameType | None) -> None:
    """End like after an interrupt: what was made is taken down."""
    del frame
    raise SystemExit(128 + number)
