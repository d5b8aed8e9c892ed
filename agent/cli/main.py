# SPDX-License-Identifier: Apache-2.0
"""Entry point of the ``hostplane`` command.

Only the module of the command that is run is imported, so that one-word host
operations start fast.  What a user or the network can cause ends in one line on
standard error and an exit status:

0 done, 1 error, 2 wrong usage, 3 applied but named objects failed, 4 named hosts
did not answer (3 and 4 with ``--wait``), 130 interrupted, 141 the reader of our
output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agent import __version__
from agent.cli.options import Run, add_common
from agent.cli.output import complain
from agent.core.errors import AgentError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class CommandModule(Protocol):
    """What a module in ``COMMANDS`` offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add options and verbs; set ``run`` as a default to a function from Namespace to exit status."""


class Command(NamedTuple):
    """Where a command lives, and what it is for in a few words."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "network": Command("agent.cli.network", "list, show, create, set, delete networks"),
    "subnet": Command("agent.cli.subnet", "list, show, create, set, delete subnets"),
    "port": Command("agent.cli.port", "list, show, create, set, delete ports"),
    "host": Command("agent.cli.host", "list, show, create, set, delete hosts"),
    "security-group": Command("agent.cli.security_group", "list, show, create, set, delete security groups"),
    "security-group-rule": Command("agent.cli.security_group_rule", "list, create, delete rules of security groups"),
    "address-group": Command(
        "agent.cli.address_group", "list, show, create, set, delete address groups, add, remove addresses"
    ),
    "router": Command("agent.cli.router", "list, show, create, set, delete routers, add, remove interfaces"),
    "floating-ip": Command("agent.cli.floating_ip", "list, show, create, set, delete floating IPs"),
    "port-forwarding": Command("agent.cli.port_forwarding", "list, show, create, set, delete port forwardings"),
    "subnet-pool": Command("agent.cli.subnet_pool", "list, show, create, set, delete subnet pools"),
    "address-scope": Command("agent.cli.address_scope", "list, show, create, set, delete address scopes"),
    "metadata-service": Command("agent.cli.metadata_service", "show, set, unset where metadata come from (Nova)"),
    "apply": Command("agent.cli.apply", "make the store hold what a YAML file says"),
    "status": Command("agent.cli.status", "what this host's agent is doing"),
    "plan": Command("agent.cli.plan", "what the agent's next pass would change"),
    "hold": Command("agent.cli.hold", "show or release a held mass deletion"),
    "log-level": Command("agent.cli.log_level", "change what the agent logs, until it restarts"),
    "plug": Command("agent.cli.plug", "connect a network namespace to a port"),
    "unplug": Command("agent.cli.plug:unplug", "take a port's devices away again"),
    "sandbox": Command("agent.sandbox.command", "simulated hosts on this machine"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    # The ovs package imports eventlet wherever it is installed, which the command neither needs nor wants.
    sys.modules["eventlet"] = None  # type: ignore[assignment]
    arguments = sys.argv[1:] if argv is None else argv
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to end
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= char <= "\udfff" for char in argument):
            complain(f"the argument {argument!r} is not UTF-8 text")
            return EXIT_USAGE
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python flushes standard output again when it ends: give it somewhere to go.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (AgentError, OSError) as err:
        for line in _text(err).splitlines():
            complain(line)
        return EXIT_ERROR


def _text(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{err.filename}: {err.strerror}" if err.filename else err.strerror
    return str(err) or type(err).__name__


def _run(arguments: list[str]) -> int:
    top = _parser("hostplane", description="Write the store of networks and ports, and ask this host's agent.")
    top.add_argument("--version", action="version", version=f"hostplane {__version__}")
    width = max(len(name) for name in COMMANDS)
    top.epilog = "commands:\n" + "\n".join(f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items())
    top.add_argument("command", metavar="COMMAND", help="see below; `hostplane COMMAND --help` tells more")
    rest = top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest.required = False  # else the message about a missing command names it
    add_common(top)
    args = top.parse_args(arguments)
    entry = COMMANDS.get(args.command)
    if entry is None:
        from agent.cli.suggest import near

        top.error(f"there is no command {args.command!r}{near(args.command, COMMANDS)}")
    parser = _parser(f"hostplane {args.command}", description=f"{entry.summary[0].upper()}{entry.summary[1:]}.")
    module, _, function = entry.module.partition(":")
    getattr(importlib.import_module(module), f"configure_{function}" if function else "configure")(parser)
    words = args.rest
    del args.rest
    args = parser.parse_args(words, args)
    run: Run = args.run
    return run(args)


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    return _Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


class _Parser(argparse.ArgumentParser):
    """A parser, and of the same class those of its verbs, that takes options in full only."""

    def __init__(self, **settings: Any) -> None:
        # Abbreviated options would make every later option a possible break of somebody's script.
        super().__init__(**{**settings, "allow_abbrev": False})


if __name__ == "__main__":
    sys.exit(main())
