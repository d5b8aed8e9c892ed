# SPDX-License-Identifier: Apache-2.0
"""``hostplane hold``: show a mass deletion that the agent holds back, or let it happen."""

from __future__ import annotations

import argparse

from agent.cli.answer import count, number, part, plain, text
from agent.cli.options import add_common, settings
from agent.cli.output import Format, age, print_value, write_line
from agent.status import client


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("action", nargs="?", choices=("release",), help="apply what is held")
    add_common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    ask = settings(args)
    if args.action == "release":
        answer = client.post(ask.socket, "/hold/release", timeout=ask.timeout)
        if ask.output is Format.TABLE:
            write_line(f"released: {text(part(answer, 'released'), 'text')}")
        else:
            print_value(plain(answer), ask.output)
        return 0
    hold = part(client.get(ask.socket, "/status", ask.timeout), "hold")
    if ask.output is not Format.TABLE:
        print_value({"hold": plain(hold) or None}, ask.output)
    elif hold:
        held = f"{count(hold, 'ports_removed')} of {count(hold, 'ports_before')} ports"
        write_line(f"held for {age(number(hold, 'since'))}: revision {count(hold, 'revision')} would remove {held}")
        write_line(text(hold, "text"))
        write_line("to apply it nevertheless: hostplane hold release")
    else:
        write_line("nothing is held")
    return 0
