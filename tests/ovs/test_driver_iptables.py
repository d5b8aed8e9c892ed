# SPDX-License-Identifier: Apache-2.0
"""Driver ``iptables`` on the real kernel, both backends, in a network namespace of the test's own.  Needs root."""

import ctypes
import fcntl
import os
import subprocess
import threading

import pytest

from agent.command import CommandRunner
from agent.core import naming
from agent.core.errors import ApplyError, CommandError
from agent.core.model import Direction, SecurityGroupRule
from agent.core.plan import Delta, ObjectId
from agent.drivers.iptables import IptablesDriver
from agent.l2 import filters, iptables_text, policies
from agent.l2.rule_matches import rule_match

CLONE_NEWNET = 0x40000000
OWNER = ObjectId("filters")
GROUP = "hp-g-0123456789abcdef-i"
POLICY = "hp-p-0123456789abcdef-i"
COMMENT = '-m comment --comment "hp:0123456789abcdef"'
JUMP = f"4 filter FORWARD {COMMENT} -j hp-forward"
WEB = f"4 filter {GROUP} -p tcp -m tcp --dport 80 {COMMENT} -j hp-accept"
DNS = f"4 filter {GROUP} -s 10.0.0.0/8 -p udp -m udp --dport 53 {COMMENT} -j hp-accept"
PING6 = f"6 filter {GROUP} -s 2001:db8::/32 -p ipv6-icmp -m icmp6 --icmpv6-type 128/0 {COMMENT} -j hp-accept"
DESIRED = {
    JUMP: "first",
    "4 filter hp-forward": "-i qbr+ -j hp-t\n-i qbr+ -j DROP",
    "4 filter hp-accept": "-j MARK --set-xmark 0x20000000/0x20000000\n-j ACCEPT",
    "4 filter hp-t": "*",
    f"4 filter hp-t -i qbra+ -g {POLICY}": "",
    f"4 filter {POLICY}": f"-m conntrack --ctstate INVALID -j DROP\n-j {GROUP}\n-j DROP",
    f"4 filter {GROUP}": "*",
    WEB: "",
    DNS: "",
    "6 filter hp-accept": "-j ACCEPT",
    f"6 filter {GROUP}": "*",
    PING6: "",
}
FOREIGN = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:theirs - [0:0]
-A INPUT -i lo -j ACCEPT
-A FORWARD -s 192.0.2.0/24 -m comment --comment "php:0123456789abcdef" -j theirs
-A FORWARD -i eth0 -j ACCEPT
-A theirs -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.fixture(params=["nft", "legacy"])
def backend(request, tmp_path, monkeypatch):
    """A network namespace that lives as long as this thread stays in it."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    yield request.param
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)


@pytest.fixture
def driver(backend):
    return IptablesDriver(CommandRunner(), backend)


@pytest.fixture
def iptables(backend):
    """Runs ``iptables`` of the backend by hand."""

    def run(*words, stdin="", program="iptables"):
        head, _, tail = program.partition("-")
        argv = (f"{head}-{backend}{'-' + tail if tail else ''}", *words)
        return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout

    return run


def changing(desired, actual):
    """What the reconciler asks for when it has read *actual*."""
    return Delta(
        creates={key: value for key, value in desired.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in desired.items() if key in actual and actual[key] != value},
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )


def converge(driver, desired=DESIRED):
    failed = driver.apply(changing(desired, driver.observe()))
    assert failed == {}
    assert driver.observe() == desired


def foreign_text(iptables):
    """All of the IPv4 table that is not ours, counters of policies included."""
    lines = iptables("-t", "filter", program="iptables-save").splitlines()
    return [line for line in lines if "hp-" not in line and not line.startswith("#")]


def counters(iptables):
    """Packets by rule."""
    lines = iptables("-c", "-t", "filter", program="iptables-save").splitlines()
    return {line.split("] ", 1)[1]: line.split(":")[0][1:] for line in lines if line.startswith("[")}


def test_everything_of_ours_is_written_and_read_back_and_nothing_else_touched(driver, iptables):
    iptables(stdin=FOREIGN, program="iptables-restore")
    before = foreign_text(iptables)

    converge(driver)
    assert foreign_text(iptables) == before
    assert iptables("-S", "FORWARD").splitlines()[1].endswith("-j hp-forward")

    converge(driver, {})
    assert foreign_text(iptables) == before
    assert "hp-" not in iptables(program="iptables-save")


def test_a_fresh_process_finds_nothing_to_do(driver, backend):
    converge(driver)
    assert not changing(DESIRED, IptablesDriver(CommandRunner(), backend).observe())


def test_asking_for_some_items_finds_what_reading_everything_finds(driver):
    converge(driver)
    asked = [JUMP, WEB, f"4 filter {POLICY}", PING6, f"4 filter {GROUP} -j DROP", "4 filter hp-t-zz", "6 filter hp-t"]
    for some in ([key] for key in asked):
        assert driver.observe(dict.fromkeys(some, OWNER)) == {key: DESIRED[key] for key in some if key in DESIRED}
    assert driver.observe(dict.fromkeys(asked, OWNER)) == {key: DESIRED[key] for key in asked if key in DESIRED}


def test_one_rule_comes_and_goes_and_the_others_keep_their_counters(driver, iptables):
    converge(driver)
    iptables(
        "--noflush", "-c", stdin=f"*filter\n[7:700] -A {GROUP} -p tcp -m tcp --dport 81 -j DROP\nCOMMIT\n",
        program="iptables-restore",
    )  # fmt: skip
    extra = f"4 filter {GROUP} -p tcp -m tcp --dport 81 -j DROP"
    with_it = {**DESIRED, extra: ""}
    assert driver.observe() == with_it

    less = {key: value for key, value in with_it.items() if key != WEB}
    converge(driver, less)
    converge(driver, with_it)

    assert counters(iptables)[f"-A {GROUP} -p tcp -m tcp --dport 81 -j DROP"] == "7"


def test_writing_what_is_there_and_deleting_what_is_gone_is_no_error(driver, backend, iptables):
    converge(driver)
    again = IptablesDriver(CommandRunner(), backend)
    assert again.apply(Delta(creates=DESIRED, owners=dict.fromkeys(DESIRED, OWNER))) == {}
    assert again.observe() == DESIRED

    iptables("-D", GROUP, *WEB.split(" ", 3)[3].replace('"', "").split())
    assert driver.apply(Delta(deletes={WEB: "", f"4 filter {POLICY}x": "-j DROP"})) == {}
    assert driver.observe() == {key: value for key, value in DESIRED.items() if key != WEB}


BY_HAND = {
    "a rule deleted": ["-D", GROUP, "1"],
    "a rule added": ["-A", GROUP, "-j", "ACCEPT"],
    "a rule of an ordered chain added first": ["-I", POLICY, "-j", "ACCEPT"],
    "a rule doubled": ["-A", "hp-t", "-i", "qbra+", "-g", POLICY],
    "a chain emptied": ["-F", "hp-accept"],
    "all chains emptied": ["-F"],
    "a chain renamed": ["-E", "hp-t", "hp-tt"],
    "a chain renamed to something that is not ours": ["-E", POLICY, "mine"],
    "a chain made": ["-N", "hp-strange"],
    "the jump deleted": ["-D", "FORWARD", "1"],
    "a rule put before the jump": ["-I", "FORWARD", "-j", "ACCEPT"],
    "the jump doubled": ["-A", "FORWARD", "-m", "comment", "--comment", "hp:0123456789abcdef", "-j", "hp-forward"],
    "another rule with our mark": ["-A", "INPUT", "-m", "comment", "--comment", "hp:0123456789abcdef", "-j", "ACCEPT"],
}


@pytest.mark.parametrize("what", BY_HAND)
def test_what_was_changed_by_hand_is_seen_and_put_right(driver, iptables, what):
    iptables(stdin=FOREIGN, program="iptables-restore")
    converge(driver)
    before = foreign_text(iptables)
    iptables(*BY_HAND[what])
    assert driver.observe() != DESIRED

    converge(driver)

    if what == "all chains emptied":
        before = [line for line in before if not line.startswith("-A")]
    assert [line for line in foreign_text(iptables) if line != "-A FORWARD -j ACCEPT" and "mine" not in line] == before


def test_a_whole_ruleset_of_others_restored_over_ours_is_survived(driver, iptables):
    converge(driver)
    iptables(stdin=FOREIGN, program="iptables-restore")
    theirs = foreign_text(iptables)
    extra = f"4 filter {GROUP} -p tcp -m tcp --dport 443 -j hp-accept"
    if "hp-" not in iptables(program="iptables-save"):
        with pytest.raises(ApplyError, match="somebody else has deleted chain hp-"):  # so that all is read again
            driver.apply(Delta(creates={extra: ""}, owners={extra: OWNER}))

    converge(driver, {**DESIRED, extra: ""})
    assert foreign_text(iptables) == theirs


def test_a_chain_that_others_refer_to_stays_and_the_error_says_which_rule_it_is(driver, iptables):
    converge(driver)
    iptables("-A", "OUTPUT", "-d", "192.0.2.1", "-j", POLICY)

    failed = driver.apply(changing({}, driver.observe()))

    assert set(failed) == {f"4 filter {POLICY}"}
    assert "-A OUTPUT -d 192.0.2.1/32 -j " + POLICY in str(failed[f"4 filter {POLICY}"])
    assert driver.observe() == {f"4 filter {POLICY}": ""}
    iptables("-F", "OUTPUT")
    converge(driver, {})


def test_what_is_refused_fails_by_name_and_everything_else_gets_in(driver):
    bad_rule = f"4 filter {GROUP} -p tcp -m tcp --dport 70000 -j hp-accept"
    bad_set = f"4 filter {GROUP} -m set --match-set hp-4-nosuch src -j hp-accept"
    bad_target = f"4 filter {GROUP} -p udp -j hp-a-nosuch"
    bad_chain = "4 filter hp-p-bad-o"
    needs_it = "4 filter hp-t -i qbrb+ -g hp-p-bad-o"
    bad = {bad_rule: "", bad_set: "", bad_target: "", bad_chain: "-j DROP\n-m nosuch -j DROP", needs_it: ""}

    failed = driver.apply(changing({**DESIRED, **bad}, driver.observe()))

    assert set(failed) == set(bad)
    assert driver.observe() == DESIRED
    assert "70000" in str(failed[bad_rule])
    assert "hp-4-nosuch" in str(failed[bad_set])
    assert "hp-a-nosuch" in str(failed[bad_target])
    assert "hp-p-bad-o" in str(failed[needs_it])


def test_what_only_the_kernel_refuses_is_found_without_a_line_number(driver):
    many = {f"4 filter {GROUP} -p tcp -m tcp --dport {port} -j hp-accept": "" for port in range(1000, 1100)}
    bad_rule = f"4 filter {GROUP} -p sctp -j NOTRACK"  # of table raw only, which iptables itself does not know
    bad_chain, needs_it = "4 filter hp-p-bad-o", "4 filter hp-t -i qbrb+ -g hp-p-bad-o"
    desired = {needs_it: "", **DESIRED, **many, bad_rule: "", bad_chain: "-p udp -j NOTRACK\n-j DROP"}

    failed = driver.apply(changing(desired, driver.observe()))

    assert set(failed) == {bad_rule, bad_chain, needs_it}
    assert driver.observe() == {**DESIRED, **many}


def test_a_port_goes_from_one_policy_to_another_in_one_transaction(backend, driver):
    other = POLICY.replace("012", "987")
    old, new = f"4 filter hp-t -i qbra+ -g {POLICY}", f"4 filter hp-t -i qbra+ -g {other}"
    converge(driver)
    desired = {**DESIRED, f"4 filter {other}": "-j DROP", new: ""}
    del desired[old], desired[f"4 filter {POLICY}"]
    scripts = []

    class Recorder(CommandRunner):
        def __call__(self, argv, **more):
            scripts.append(argv[0])
            return super().__call__(argv, **more)

    watched = IptablesDriver(Recorder(), backend)
    delta = changing(desired, watched.observe())
    scripts.clear()
    assert watched.apply(delta) == {}
    assert scripts == [f"iptables-{backend}-restore"]
    assert watched.observe() == desired


def vocabulary():
    """Every form of rule that security groups can take."""
    for number in (None, *range(256)):
        for version in (4, 6):
            yield {"protocol": number, "ip_version": version}
    for version, prefix in ((4, "10.1.0.0/16"), (4, "10.1.2.3/32"), (6, "2001:db8::/32"), (6, "::ffff:10.0.0.0/104")):
        for protocol in (None, 6, 17, 33, 132, 136):
            yield {"protocol": protocol, "ip_version": version, "remote_prefix": prefix}
            yield {"protocol": protocol, "ip_version": version, "remote_owner": "o"}
    for protocol in (6, 17, 33, 132, 136):
        for first, last in ((0, 0), (80, 80), (0, 65535), (0, 1023), (1024, 65535)):
            ports = {"protocol": protocol, "port_min": first, "port_max": last}
            yield {"ip_version": 4, **ports}
            yield {"ip_version": 6, "remote_owner": "o", **ports}
    for version, protocol in ((4, 1), (6, 58), (6, 1)):
        for kind in (0, 3, 8, 128, 135, 254, 255):
            for code in (None, 0, 1, 255):
                yield {"protocol": protocol, "ip_version": version, "port_min": kind, "port_max": code}


def vocabulary_items():
    items = {}
    for number, words in enumerate(vocabulary()):
        for direction in Direction:
            rule = SecurityGroupRule(f"{number}{direction}", direction, **words)
            try:
                match = rule_match(rule)
            except ValueError:
                continue
            comment = iptables_text.comment(naming.rule_comment(rule.id))
            text = iptables_text.rule(match, comment, iptables_text.jump("hp-accept"))
            items[iptables_text.rule_key(rule.ip_version, GROUP, text)] = ""
    return items


def test_every_rule_that_is_planned_reads_back_as_it_was_written(driver):
    for family, name in ((4, "inet"), (6, "inet6")):
        subprocess.run(["ipset", "create", naming.member_set("o", family), "hash:net", "family", name], check=True)
    desired = {f"{family} filter {chain}": "*" for family in (4, 6) for chain in (GROUP, "hp-g-x-o", "hp-g-y-o")}
    desired |= vocabulary_items()
    groups = [filters.plan_base(), filters.plan_node("a"), policies.plan_policy(policies.OPEN, ())]
    tracked = policies.make_policy(ObjectId("policy:x"), (), tracked=True)
    groups.append(policies.plan_policy(tracked, ()))
    for group in groups:
        desired |= {key: str(value) for key, value in group.items["iptables"].items()}
    logged = [
        iptables_text.log(f"hp-{rate}", rate, burst, "d:0123")
        for rate in (1, 7, 100, 999, 3000, 20000)
        for burst in (1, 5, 25)
    ]
    desired |= {f"{family} filter hp-a-x": "\n".join(logged) for family in (4, 6)}

    assert len(desired) > 1000
    converge(driver, desired)


def test_a_rule_in_other_words_is_the_same_rule(driver, backend):
    """Whatever planners call it: it is written once, and read back in their words."""
    gre, named = f"4 filter {GROUP} -p gre -j hp-accept", f"4 filter {GROUP} -p 47 -j hp-accept"
    odd = f"4 filter {GROUP} -m comment --comment abc -p tcp --dport 5:5 -s 10.0.0.1 -j hp-accept"
    chain = "-m state --state ESTABLISHED,RELATED -j hp-accept\n-j CONNMARK --set-mark 2/3"
    desired = {**DESIRED, gre: "", odd: "", "4 filter hp-p-odd-o": chain}
    converge(driver, desired)

    fresh = IptablesDriver(CommandRunner(), backend)
    delta = changing(desired, fresh.observe())
    assert named in delta.deletes
    assert fresh.apply(delta) == {}
    assert fresh.observe() == desired

    assert fresh.apply(Delta(deletes={odd: "", "4 filter hp-p-odd-o": chain}, creates={})) == {}
    assert fresh.observe() == {**DESIRED, gre: ""}


def test_tables_of_nft_that_iptables_knows_nothing_of_do_not_confuse(driver, backend):
    converge(driver)
    by_nft = (
        "add table ip other; add chain ip other c { type filter hook forward priority 5; };"
        "add rule ip other c ip saddr { 192.0.2.1, 192.0.2.2 } counter drop;"
    )
    if backend == "nft":
        by_nft += "add chain ip filter theirs; add rule ip filter theirs ip saddr { 192.0.2.1, 192.0.2.2 } drop;"
        by_nft += "add chain ip filter based { type filter hook forward priority 7; };"
    subprocess.run(["nft", "-f", "-"], input=by_nft, text=True, check=True)
    before = subprocess.run(["nft", "-s", "list", "table", "ip", "other"], capture_output=True, check=True).stdout

    assert driver.observe() == DESIRED
    converge(driver, {**DESIRED, f"4 filter {GROUP} -p sctp -j hp-accept": ""})
    converge(driver, {})

    assert (
        subprocess.run(["nft", "-s", "list", "table", "ip", "other"], capture_output=True, check=True).stdout == before
    )


def test_chains_of_ours_in_the_other_backend_are_reported(driver, backend):
    other = IptablesDriver(CommandRunner(), "legacy" if backend == "nft" else "nft")
    assert driver.foreign_backend_leftovers() == ()
    converge(other)

    told = driver.foreign_backend_leftovers()

    assert [problem.field for problem in told] == ["iptables_backend"] * 2
    assert "chains of ours" in told[0].text
    assert driver.observe() == {}


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
def test_a_lock_that_others_do_not_give_back_is_an_error_of_the_whole_and_nothing_is_lost(backend):
    driver = IptablesDriver(CommandRunner(), backend, lock_wait=1)
    converge(driver)
    extra = f"4 filter {GROUP} -p sctp -j hp-accept"
    delta = Delta(creates={extra: ""}, owners={extra: OWNER})
    with open(os.environ["XTABLES_LOCKFILE"], "w") as lock:  # noqa: PTH123
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match="xtables lock"):
            driver.apply(delta)
    assert driver.apply(delta) == {}
    assert driver.observe() == {**DESIRED, extra: ""}


def test_programs_that_are_missing_are_an_error_of_the_whole():
    with pytest.raises(CommandError, match="not installed"):
        IptablesDriver(CommandRunner(), "nosuch").observe()
