# SPDX-License-Identifier: Apache-2.0
"""The iptables driver against tables that execute what they are told."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, CommandError
from agent.core.plan import Delta, ObjectId
from agent.drivers.iptables import IptablesDriver
from agent.drivers.iptables_rule import canonical_rule, rebuild
from tests.fakes.drivers import Crash, Fuse
from tests.fakes.iptables import FakeIptables

OWNER = ObjectId("filters")
FOREIGN = {"FORWARD": ["-i eth0 -j ACCEPT", "-s 192.0.2.0/24 -j theirs"], "theirs": ["-p tcp -j ACCEPT"]}
GROUPS = ("hp-g-1-i", "hp-g-2-i")
POLICIES = ("hp-p-1-i", "hp-p-2-i")
JUMP = '-m comment --comment "hp:0123456789abcdef" -j hp-forward'
RULES = ("-p tcp -m tcp --dport 80 -j hp-accept", "-p 47 -j hp-accept", "-s 10.0.0.0/8 -p udp -j hp-accept")
LINES = (
    "-m conntrack --ctstate INVALID -j DROP",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j hp-accept",
    "-p udp -m udp --sport 67 --dport 68 -j hp-accept",
)


def chosen(options, bits):
    return [option for number, option in enumerate(options) if bits >> number & 1]


def table_items(family, bits):
    """A plan for one family, read off the *bits* of a number; whatever is jumped to exists."""
    items = {f"{family} filter hp-accept": "-j MARK --set-xmark 0x20000000/0x20000000\n-j ACCEPT"}
    groups, policies = chosen(GROUPS, bits), chosen(POLICIES, bits >> 2)
    for number, group in enumerate(groups):
        items[f"{family} filter {group}"] = "*"
        items.update(dict.fromkeys((f"{family} filter {group} {r}" for r in chosen(RULES, bits >> 4 + 3 * number)), ""))
    for number, policy in enumerate(policies):
        lines = [*chosen(LINES, bits >> 10 + 3 * number), *(f"-j {group}" for group in groups)]
        items[f"{family} filter {policy}"] = "\n".join([*lines[:: -1 if bits >> 16 & 1 else 1], "-j DROP"])
    if bits >> 17 & 1:
        items[f"{family} filter hp-t"] = "*"
        items[f"{family} filter hp-forward"] = "-i qbr+ -j hp-t\n-i qbr+ -j DROP"
        items[f"{family} filter FORWARD {JUMP}"] = "first"
        for policy, device in zip(policies, ("qbra", "qbrb")[:: -1 if bits >> 18 & 1 else 1], strict=False):
            items[f"{family} filter hp-t -i {device} -g {policy}"] = ""
    return items


TABLES = st.none() | st.integers(0, (1 << 19) - 1)
DESIRED = st.tuples(TABLES, TABLES).map(
    lambda bits: {
        key: value
        for family, number in zip((4, 6), bits, strict=True)
        if number is not None
        for key, value in table_items(family, number).items()
    }
)


def other_words(rule):
    """How another version might print it."""
    return rule.replace("-p 47", "-p gre").replace("RELATED,ESTABLISHED", "ESTABLISHED,RELATED")


def difference(actual, desired):
    return Delta(
        creates={key: value for key, value in desired.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in desired.items() if key in actual and actual[key] != value},
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )


def reconcile(driver, desired):
    return driver.apply(difference(driver.observe(), desired))


def foreign(kernel):
    """What is not ours, by chain."""
    return {
        program: {
            chain: [rule for rule in rules if '"hp:' not in rule]
            for chain, rules in table.items()
            if not chain.startswith("hp-")
        }
        for program, table in kernel.tables.items()
    }


def dumps(kernel):
    """Both tables, in which the order of the rules of list chains means nothing."""
    for table in kernel.tables.values():
        for chain in ("hp-t", *GROUPS):
            if chain in table:
                table[chain].sort()
    return kernel.dump("iptables"), kernel.dump("ip6tables")


@given(st.lists(DESIRED, min_size=1, max_size=4), st.booleans())
def test_the_tables_depend_only_on_the_last_desired_state(history, dialect):
    kernel, fresh = FakeIptables(FOREIGN), FakeIptables(FOREIGN)
    kernel.dialect = other_words if dialect else str
    driver, before = IptablesDriver(kernel), foreign(kernel)
    for desired in history:
        assert reconcile(driver, desired) == {}
        assert driver.observe() == desired
    reconcile(IptablesDriver(fresh), history[-1])
    fresh.dialect = kernel.dialect

    assert dumps(kernel) == dumps(fresh)
    assert foreign(kernel) == before
    assert not difference(IptablesDriver(kernel).observe(), history[-1])


@given(st.lists(DESIRED, min_size=2, max_size=4))
def test_passes_that_believe_what_was_written_need_one_process_a_family(history):
    kernel = FakeIptables(FOREIGN)
    driver = IptablesDriver(kernel)
    believed: dict[str, str] = {}
    driver.observe()
    for desired in history:
        delta, kernel.processes = difference(believed, desired), 0
        assert driver.apply(delta) == {}
        assert kernel.processes == len({key[0] for key in delta.keys()})  # noqa: SIM118
        believed = desired
    assert driver.observe() == history[-1]


@given(DESIRED, DESIRED, st.integers(0, 3))
def test_a_crash_around_a_script_leaves_each_family_old_or_new(before, after, operations):
    kernel = FakeIptables(FOREIGN)
    reconcile(IptablesDriver(kernel), before)
    old = dumps(kernel)
    kernel.fuse = Fuse(operations)
    with contextlib.suppress(Crash):
        reconcile(IptablesDriver(kernel), after)
    kernel.fuse = None
    left = dumps(kernel)

    fresh = IptablesDriver(kernel)
    reconcile(fresh, after)

    assert all(text in pair for text, pair in zip(left, zip(old, dumps(kernel), strict=True), strict=True))
    assert not difference(fresh.observe(), after)


@given(DESIRED, DESIRED, st.sampled_from(["before", "after"]))
def test_a_script_of_unknown_outcome_is_read_back(before, after, hang):
    kernel = FakeIptables(FOREIGN)
    driver = IptablesDriver(kernel)
    reconcile(driver, before)
    kernel.hang = hang
    with contextlib.suppress(CommandError):
        driver.apply(difference(before, after))
    kernel.hang = ""

    assert driver.apply(difference(before, after)) == {}  # once more, whatever has become of it
    assert driver.observe() == after


@given(DESIRED, st.sampled_from(["--dport 80", "-p 47", "INVALID", "hp-p-1-i", "qbra"]), st.booleans())
def test_what_is_refused_fails_with_what_needs_it_and_nothing_else_does(desired, word, named):
    kernel = FakeIptables(FOREIGN)
    (kernel.refuse if named else kernel.refuse_in_kernel).add(word)
    driver = IptablesDriver(kernel)

    failed = reconcile(driver, desired)

    bad = {key for key, value in desired.items() if word in f"{key} {value}"}
    if not named:  # the kernel sees rules, not names of chains
        bad = {key for key in bad if any(word in rule for rule in rules_of(key, desired[key]))}
    while more := {
        key
        for key, value in desired.items()
        if key not in bad
        and any(f"{key[0]} filter {name}" in bad for name in f"{key} {value}".split() if name.startswith("hp-"))
    }:
        bad |= more
    assert set(failed) == bad
    assert driver.observe() == {key: value for key, value in desired.items() if key not in bad}
    assert foreign(kernel) == foreign(FakeIptables(FOREIGN))


def rules_of(key, value):
    return [key.split(" ", 3)[3]] if key.count(" ") > 2 else value.splitlines()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["delete", "double", "reverse", "insert", "flush", "remove", "make"]),
        st.sampled_from([*GROUPS, *POLICIES, "hp-t", "hp-forward", "hp-accept", "FORWARD", "hp-odd"]),
    ),
    max_size=4,
)


def tamper(kernel, edits):
    """Change the IPv4 table as somebody with root and no idea might."""
    table = kernel.tables["iptables"]
    for verb, chain in edits:
        if verb == "make":
            table.setdefault(chain, [])
        rules = table.get(chain)
        if rules is None or (verb in ("flush", "remove") and chain == "FORWARD"):
            continue
        used = any(chain in rule.split() for others in table.values() for rule in others)
        match verb:
            case "delete":
                del rules[:1]
            case "double":
                rules.extend(rules[:1])
            case "reverse":
                rules.reverse()
            case "insert":
                rules.insert(0, "-j ACCEPT")
            case "flush":
                rules.clear()
            case "remove" if not used:
                del table[chain]


@given(DESIRED, DESIRED, EDITS, st.booleans())
def test_edits_by_hand_are_seen_and_put_right_whenever_they_come(before, after, edits, unseen):
    kernel = FakeIptables({"theirs": []})
    driver = IptablesDriver(kernel)
    reconcile(driver, before)
    tamper(kernel, edits)
    if unseen:
        with contextlib.suppress(AgentError):
            driver.apply(difference(before, after))

    assert reconcile(driver, after) == {}

    assert driver.observe() == after
    fresh = FakeIptables({"theirs": []})
    reconcile(IptablesDriver(fresh), after)
    for table in kernel.tables.values():
        table["FORWARD"] = [rule for rule in table["FORWARD"] if '"hp:' in rule]  # theirs stay where they are
    assert dumps(kernel) == dumps(fresh)


@given(DESIRED, DESIRED, EDITS)
def test_asking_for_some_finds_what_asking_for_all_finds(desired, asked, edits):
    kernel = FakeIptables(FOREIGN)
    reconcile(IptablesDriver(kernel), desired)
    driver = IptablesDriver(kernel)
    driver.observe()
    tamper(kernel, edits)
    everything = IptablesDriver(kernel).observe()

    found = driver.observe(dict.fromkeys(asked, OWNER))

    assert found == {key: everything[key] for key in asked if key in everything}


WORDS = st.sampled_from(
    [
        *("-s 10.0.0.0/8", "-s 2001:db8::/32", "-d ::/0", "-i qbra+", "-o qbrb", "-p tcp", "-p 47", "-p 6", "! -p udp"),
        *("-m tcp --dport 80", "-m tcp --dport 5:5", "-m udp --sport :5", "-m mark --mark 1/3", "-m limit --limit 2/s"),
        *("-m conntrack --ctstate NEW,INVALID", '-m comment --comment "hp:0123456789abcdef"', "-m comment --comment a"),
        *("-m set --match-set hp-4-1 src", "-m physdev --physdev-is-bridged --physdev-in a", "-j hp-accept", "-g hp-t"),
        *(
            "-m icmp --icmp-type 255",
            "-p tcp --dport 9",
            "-j MARK --or-mark 1",
            '-j NFLOG --nflog-prefix "a b" --nflog-group 0',
        ),
    ]
)


@given(st.lists(WORDS, max_size=6).map(" ".join))
def test_the_canonical_form_of_a_canonical_form_is_itself(rule):
    canonical = canonical_rule(rule)
    assert canonical_rule(canonical) == rebuild(canonical) == canonical


def test_a_table_that_cannot_be_written_at_all_is_an_error_of_the_whole():
    kernel = FakeIptables()
    driver = IptablesDriver(kernel)
    driver.observe()
    kernel.refuse_in_kernel = {""}
    kernel.tables["iptables"]["FORWARD"].append("-j ACCEPT")
    with pytest.raises(CommandError):
        driver.apply(Delta(creates={"4 filter hp-t": "*"}, owners={"4 filter hp-t": OWNER}))
