# SPDX-License-Identifier: Apache-2.0
"""``hostplane security-group-rule``: rules one by one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from agent.cli.field_options import add_field_options, given_values
from agent.cli.fields import RULE_FIELDS
from agent.cli.objects import plain
from agent.cli.options import Settings, add_common, settings
from agent.cli.output import Format, complain, print_value, table, write_line
from agent.cli.rule_view import COLUMNS, cells
from agent.cli.store import open_store
from agent.cli.waiting import add_wait, wait
from agent.store.document import RuleFields
from agent.store.records import SecurityGroupRuleRecord


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    add_common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="the rules of a security group, or of all")
    listing.add_argument("group", nargs="?", metavar="SECURITY_GROUP", help="name or id")
    listing.set_defaults(run=_list)

    create = verbs.add_parser("create", help="add a rule to a security group (several ports are a rule each)")
    create.add_argument("group", metavar="SECURITY_GROUP", help="name or id")
    create.set_defaults(run=_create)
    add_field_options(create, RULE_FIELDS)

    delete = verbs.add_parser("delete", help="delete rules")
    delete.add_argument("rules", metavar="RULE", nargs="+", help="id")
    delete.set_defaults(run=_delete)
    for verb in (create, delete):
        add_wait(verb)
    for verb in (listing, create, delete):
        add_common(verb)


def _list(args: argparse.Namespace) -> int:
    ask = settings(args)
    with open_store(ask) as writer:
        rules = writer.list_security_group_rules(args.group)
    _print(rules, ask)
    if not rules and ask.output is Format.TABLE:
        complain("no security group rules")
    return 0


def _create(args: argparse.Namespace) -> int:
    ask = settings(args)
    make: Callable[..., RuleFields] = RuleFields
    with open_store(ask) as writer:
        written = writer.add_security_group_rules(args.group, (make(**given_values(args, RULE_FIELDS)),))
        _print(written.result, ask)
        if not written.result and ask.output is Format.TABLE:
            write_line("such a rule is there already")
        return wait(args, writer, [written])


def _delete(args: argparse.Namespace) -> int:
    ask = settings(args)
    deleted = []
    with open_store(ask) as writer:
        for rule in args.rules:
            deleted.append(writer.remove_security_group_rule(rule))
            if ask.output is Format.TABLE:
                write_line(f"security group rule {rule} deleted")
        if ask.output is not Format.TABLE:
            print_value([plain(written.result) for written in deleted], ask.output)
        return wait(args, writer, deleted)


def _print(rules: Sequence[SecurityGroupRuleRecord], ask: Settings) -> None:
    if ask.output is not Format.TABLE:
        print_value([plain(rule) for rule in rules], ask.output)
        return
    for line in table([[rule.group_name or rule.group, *cells(rule)] for rule in rules], ("group", *COLUMNS)):
        write_line(line)
