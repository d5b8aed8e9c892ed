# SPDX-License-Identifier: Apache-2.0
"""``hostplane sandbox``: simulated hosts on this machine, each with its own Open vSwitch and agent."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent.cli.options import add_common, settings
from agent.cli.output import Format, complain, print_value, write_line
from agent.core.errors import InputError
from agent.sandbox.layout import DEFAULT_NAME, LINKS, UPSTREAM, host_names
from agent.sandbox.sandbox import Sandbox, remove

if TYPE_CHECKING:  # `exec` must start fast: what reads files, store and agents is imported where it is needed
    from agent.store.document import Document

EXIT_DONE = 0
EXIT_NO_PLACE = 125  # what to run in is missing, as container tools say it
EXIT_NOT_RUNNABLE = 126
EXIT_TERMINATED = 143


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    add_common(parser)
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"which sandbox, if there are several ({DEFAULT_NAME})")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    up = verbs.add_parser("up", help="make the hosts and start everything on them")
    up.add_argument("--hosts", type=int, default=2, metavar="N", help="how many: host1 .. hostN (2)")
    up.add_argument(
        "-f", "--file", metavar="FILE", help="apply FILE and make an instance for each of its ports (-: stdin)"
    )
    up.add_argument("--dhcp", action="store_true", help="let instances get their addresses by DHCP")
    up.add_argument("--external", action="store_true", help=f"put a router beyond the external network: {UPSTREAM}")
    up.set_defaults(run=_up)

    inside = verbs.add_parser("exec", help="run a command on a host or in an instance")
    inside.add_argument("place", metavar="NAME", help=f"a host, an instance (called after its port), or {UPSTREAM}")
    inside.add_argument("words", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the command and its arguments")
    inside.set_defaults(run=_exec)

    env = verbs.add_parser("env", help="print shell variables that point other commands at a host")
    env.add_argument("host", nargs="?", default="host1", metavar="HOST", help="which host (host1)")
    env.set_defaults(run=_env)

    restart = verbs.add_parser("restart", help="end a process and start it again")
    restart.add_argument("host", metavar="HOST")
    restart.add_argument(
        "--what",
        choices=("agent", "ovs", "responder", "store"),
        default="agent",
        help="the agent, ovs-vswitchd, the responder (which the agent starts again), or the one store",
    )
    restart.add_argument("--kill", action="store_true", help="with SIGKILL instead of SIGTERM")
    restart.set_defaults(run=_restart)

    status = verbs.add_parser("status", help="hosts with their processes, and instances")
    status.set_defaults(run=_status)
    down = verbs.add_parser("down", help="end and remove everything, whatever state it is in")
    down.set_defaults(run=_down)
    for verb in (up, env, restart, status, down, *_add_faults(verbs)):
        add_common(verb)


def _add_faults(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    """Add the verbs that break something, and mend it."""
    link_down = verbs.add_parser("link-down", help="cut a link of a host")
    link_down.add_argument("--silent", action="store_true", help="nothing passes, but the host has its carrier still")
    link_down.set_defaults(run=lambda args: _done(Sandbox.cut, args, (args.link,), silently=args.silent))
    link_up = verbs.add_parser("link-up", help="connect a link of a host again")
    link_up.set_defaults(run=lambda args: _done(Sandbox.mend, args, (args.link,)))
    host_down = verbs.add_parser("host-down", help="let a host die: its links are cut, its processes killed")
    host_down.set_defaults(run=lambda args: _done(Sandbox.kill_host, args))
    host_up = verbs.add_parser("host-up", help="start a dead host")
    host_up.set_defaults(run=lambda args: _done(Sandbox.revive_host, args))
    partition = verbs.add_parser("partition", help="let two hosts not hear each other on the underlay")
    partition.set_defaults(run=lambda args: _done(Sandbox.partition, args, args.other))
    heal = verbs.add_parser("heal", help="let two hosts hear each other again")
    heal.set_defaults(run=lambda args: _done(Sandbox.heal, args, args.other))
    added = [link_down, link_up, host_down, host_up, partition, heal]
    for verb in added:
        verb.add_argument("host", metavar="HOST")
    for verb in (link_down, link_up):
        verb.add_argument("link", choices=LINKS, metavar="LINK", help=", ".join(LINKS))
    for verb in (partition, heal):
        verb.add_argument("other", metavar="OTHER")
    return added


def _done(call: Callable[..., None], args: argparse.Namespace, *words: object, **options: object) -> int:
    """Call a method of the sandbox about a host."""
    call(Sandbox.find(args.name), args.host, *words, **options)
    return EXIT_DONE


def _up(args: argparse.Namespace) -> int:
    if args.dhcp and args.file is None:
        raise InputError("sandbox: --dhcp: is about the instances of a file; name one with -f")
    document = _document(args.file, args.hosts)
    # Ended by a signal, leave nothing behind: the same way out as an interrupt from the keyboard.
    signal.signal(signal.SIGTERM, _terminated)
    begun = time.monotonic()
    sandbox = Sandbox.create(args.name, args.hosts, external=args.external)
    status = EXIT_DONE if document is None else _bring_up(sandbox, document, dhcp=args.dhcp)
    hosts = ", ".join(f"{host.name} ({host.address})" for host in sandbox.hosts)
    write_line(f"sandbox {args.name}: {hosts} up in {time.monotonic() - begun:.1f} s")
    return status


def _document(file: str | None, hosts: int) -> Document | None:
    """Read the file before anything is made: its mistakes are found in no time."""
    if file is None:
        return None
    from agent.cli.apply import read_document
    from agent.sandbox.instances import check_names

    document = read_document(file)
    check_names(document, host_names(hosts))
    return document


def _bring_up(sandbox: Sandbox, document: Document, *, dhcp: bool) -> int:
    from agent.sandbox.instances import bring_up

    try:
        done = bring_up(sandbox, document, dhcp=dhcp)
    except BaseException:  # the file cannot be applied, or we were interrupted: let it be tried again
        remove(sandbox.name)
        raise
    for port in done.ports:
        addresses = ", ".join(fixed_ip.address for fixed_ip in port.fixed_ips) or "no address"
        groups = port.security_groups
        filtered = "" if groups is None else f", security groups: {', '.join(groups) or 'none'}"
        write_line(f"instance {port.name} on {port.host}: network {port.network_name}, {addresses}{filtered}")
    for name in done.elsewhere:
        complain(f"port {name}: its host is not in this sandbox, so there is no instance of it")
    for name, why in done.failures.items():
        complain(f"port {name}: {why}")
    for host in done.missing_hosts:
        complain(f"host {host}: has not applied the file")
    return done.exit_status


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _exec(args: argparse.Namespace) -> int:
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise InputError("sandbox: exec: a command is missing; write it after --")
    try:
        sandbox = Sandbox.find(args.name)
        place = sandbox.resolve(args.place)
    except InputError as err:
        complain(str(err))
        return EXIT_NO_PLACE
    argv = sandbox.argv(place, words, directory=_working_directory())
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], argv, {**os.environ, **place.host.inner_environment()})  # noqa: S606 - that is what it is for
    except OSError as err:
        complain(f"{argv[0]}: {err.strerror}")
        return EXIT_NOT_RUNNABLE


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted meanwhile
        return "/"


def _env(args: argparse.Namespace) -> int:
    for name, value in Sandbox.find(args.name).host(args.host).environment().items():
        write_line(f"export {name}={shlex.quote(value)}")
    return EXIT_DONE


def _restart(args: argparse.Namespace) -> int:
    Sandbox.find(args.name).restart(args.host, args.what, kill=args.kill)
    return EXIT_DONE


def _status(args: argparse.Namespace) -> int:

    from agent.sandbox.report import collect, lines

    report = collect(Sandbox.find(args.name))
    form = settings(args).output
    if form is Format.TABLE:
        for line in lines(report):
            write_line(line)
    else:
        print_value(report, form)
    return EXIT_DONE


def _down(args: argparse.Namespace) -> int:
    existed = remove(args.name)
    write_line(f"sandbox {args.name}: {'taken down' if existed else 'was not there'}")
    return EXIT_DONE
