# SPDX-License-Identifier: Apache-2.0
"""What the planners write of filters is what iptables takes and shows afterwards, with both of its backends."""

import os
import subprocess

import pytest

from agent.drivers.iptables_rule import canonical_rule
from agent.l2.iptables_text import rule as line_of
from agent.l2.rule_matches import InexpressibleError, rule_match
from tests.golden.l2_world import World, filters_world, rule

PROGRAMS = {4: "iptables", 6: "ip6tables"}


def items_of(world, driver):
    return {key: value for group in world.groups()[0].values() for key, value in group.items.get(driver, {}).items()}


@pytest.fixture
def inside():
    """Return a function that runs a command in a network namespace of its own."""
    name = f"hpd-{os.getpid()}"

    def run(*words, stdin=""):
        command = ("ip", "netns", "exec", name, *words)
        return subprocess.run(command, input=stdin, text=True, capture_output=True, check=True, timeout=60).stdout

    subprocess.run(("ip", "netns", "add", name), check=True)
    try:
        yield run
    finally:
        subprocess.run(("ip", "netns", "delete", name), check=True)


def restore_script(items, family):
    """Return what ``iptables-restore`` is given for the planned items of a family."""
    chains, rules = [], []
    for key, value in items.items():
        number, _, chain, *line = key.split(" ", 3)
        if number != str(family):
            continue
        if line:
            rules.append(f"-A {chain} {line[0]}")
            continue
        chains.append(f":{chain} - [0:0]")
        rules += (f"-A {chain} {each}" for each in value.split("\n") if value != "*")
    return "\n".join(("*filter", *chains, *rules, "COMMIT", ""))


def shown(text):
    """Return the rules that ``iptables-save`` shows, canonical, by chain and in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            _, chain, body = line.split(" ", 2)
            found.setdefault(chain, []).append(canonical_rule(body))
    return found


def planned(script):
    found: dict[str, list[str]] = {}
    for line in script.splitlines():
        if line.startswith("-A "):
            _, chain, body = line.split(" ", 2)
            found.setdefault(chain, []).append(body)
    return found


def everything() -> World:
    """Return a host whose one group has a rule of every protocol, as far as iptables has words for it."""
    world = filters_world()
    rules = []
    for version in (4, 6):
        for number in range(256):
            for ports in ((None, None), (5, 9), (7, 7)):
                candidate = rule(f"r{version}-{number}-{ports}", ip_version=version, protocol=number, ports=ports)
                try:
                    rule_match(candidate)
                except InexpressibleError:
                    continue
                rules.append(candidate)
    world.group("web", *rules)
    return world


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_planned_rules_are_what_iptables_shows(inside, backend):
    world = everything()
    sets = items_of(world, "ipset")
    elements = items_of(world, "members")
    script = [*(f"create {name} {kind}" for name, kind in sets.items()), *(f"add {element}" for element in elements)]
    inside("ipset", "restore", stdin="\n".join((*script, "")))
    for family, program in PROGRAMS.items():
        text = restore_script(items_of(world, "iptables"), family)
        inside(f"{program}-{backend}-restore", "-w", "--noflush", stdin=text)
        assert shown(inside(f"{program}-{backend}-save", "-t", "filter")) == planned(text)


def test_every_protocol_of_the_api_can_be_said():
    """All but those that mean something else to iptables: see docs/security-groups.md."""
    refused = set()
    for version in (4, 6):
        for number in range(256):
            try:
                line_of(rule_match(rule("r", ip_version=version, protocol=number)))
            except InexpressibleError:
                refused.add((version, number))
    assert refused == {(4, 0), (6, 0), (6, 43), (6, 44), (6, 51), (6, 60)}
