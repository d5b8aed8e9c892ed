# SPDX-License-Identifier: Apache-2.0
"""Options that every command takes, before or after its name, and their environment variables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.cli.output import Format

Run = Callable[[argparse.Namespace], int]

DEFAULT_STORE = "unix:/run/hostplane/store.sock"
DEFAULT_SOCKET = "/run/hostplane/agent.sock"
DEFAULT_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to find store and agent, and how to print; ``timeout`` in seconds."""

    store: tuple[str, ...]
    private_key: str | None
    certificate: str | None
    ca_cert: str | None
    socket: Path
    output: Format
    timeout: float


LONGEST = 1e6  # seconds; what the system's clocks can take is more


def seconds(text: str) -> float:
    """Parse a number of seconds above 0 (for argparse)."""
    value = float(text)
    if not (0 < value <= LONGEST):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0 and up to {LONGEST:g}")
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options; they set nothing unless given, so that they may stand at any level."""
    absent = argparse.SUPPRESS
    group = parser.add_argument_group("options of every command")
    text = f"address of the store, several separated by commas (HOSTPLANE_STORE, {DEFAULT_STORE})"
    group.add_argument("--store", metavar="ADDRESS", default=absent, help=text)
    text = f"status socket of this host's agent (HOSTPLANE_SOCKET, {DEFAULT_SOCKET})"
    group.add_argument("--socket", metavar="PATH", default=absent, help=text)
    for name, what in (("private-key", "key"), ("certificate", "certificate"), ("ca-cert", "authority")):
        variable = "HOSTPLANE_" + name.upper().replace("-", "_")
        group.add_argument(f"--{name}", metavar="FILE", default=absent, help=f"{what} for ssl: stores ({variable})")
    choices = [form.value for form in Format]
    group.add_argument("-o", "--output", choices=choices, default=absent, help="how to print (table)")
    text = f"seconds to wait for store or agent ({DEFAULT_TIMEOUT:g}; apply: 60, plan: 40)"
    group.add_argument("--timeout", type=seconds, metavar="SECONDS", default=absent, help=text)


def settings(args: argparse.Namespace, timeout: float = DEFAULT_TIMEOUT) -> Settings:
    """Return what was given on the command line, else in the environment, else the defaults.

    *timeout* is the default of a command whose answer takes longer than others.
    """

    def given(name: str) -> str | None:
        value = getattr(args, name, None) or os.environ.get("HOSTPLANE_" + name.upper())
        return str(value) if value else None

    return Settings(
        store=tuple((given("store") or DEFAULT_STORE).split(",")),
        private_key=given("private_key"),
        certificate=given("certificate"),
        ca_cert=given("ca_cert"),
        socket=Path(given("socket") or DEFAULT_SOCKET),
        output=Format(getattr(args, "output", Format.TABLE)),
        timeout=float(getattr(args, "timeout", timeout)),
    )
