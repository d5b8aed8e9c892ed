# SPDX-License-Identifier: Apache-2.0
"""``hostplane log-level``: change what the agent logs, without a restart."""

from __future__ import annotations

import argparse

from agent.cli.answer import plain, text
from agent.cli.options import add_common, settings
from agent.cli.output import Format, print_value, write_line
from agent.status import client


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("level", metavar="LEVEL", help="debug, info, warning, error: this and what is worse is logged")
    add_common(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    ask = settings(args)
    answer = client.post(ask.socket, "/log-level", {"level": args.level}, ask.timeout)
    if ask.output is Format.TABLE:
        write_line(f"log level {text(answer, 'log_level') or args.level}, until the agent restarts or reloads")
    else:
        print_value(plain(answer), ask.output)
    return 0
