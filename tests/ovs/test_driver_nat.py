# SPDX-License-Identifier: Apache-2.0
"""Driver ``nat`` on the real kernel, both backends, in namespaces of the test's own.  Needs root."""

from __future__ import annotations

import pytest

from agent.command import CommandRunner
from agent.core.errors import CommandError
from agent.core.plan import Delta, ObjectId
from agent.drivers.nat import NatDriver
from agent.drivers.netns import NetnsDriver
from tests.ovs.namespace_lab import host, run, within

OWNER = ObjectId("router:1")
SPACES = ("qrouter-a", "qrouter-b")
COMMENT = '-m comment --comment "hp:0123456789abcdef"'
FLOATING = "-d 203.0.113.10/32 -j DNAT --to-destination 10.0.0.5"
FORWARDING = "-d 203.0.113.1/32 -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.0.0.6:22"
RANGE = "-d 203.0.113.1/32 -p udp -m udp --dport 100:110 -j DNAT --to-destination 10.0.0.6:200-210/100"
FOREIGN = """*nat
:theirs - [0:0]
-A PREROUTING -d 192.0.2.1/32 -j theirs
-A theirs -j ACCEPT
COMMIT
*filter
-A FORWARD -s 192.0.2.0/24 -j DROP
COMMIT
"""


def rules(space: str) -> dict[str, str]:
    """A router: what it has in each table of both families."""
    found = {
        f"4 nat PREROUTING {COMMENT} -j hp-dnat": "first",
        f"4 nat POSTROUTING {COMMENT} -j hp-snat": "first",
        f"4 raw PREROUTING {COMMENT} -j hp-notrack": "first",
        "4 raw hp-notrack": "*",
        "4 raw hp-notrack -d 10.0.0.0/24 -i qr-+ -j CT --notrack": "",
        "4 nat hp-dnat": "*",
        f"4 nat hp-dnat {FLOATING}": "",
        f"4 nat hp-dnat {FORWARDING}": "",
        f"4 nat hp-dnat {RANGE}": "",
        "4 nat hp-floating": "*",
        "4 nat hp-floating -s 10.0.0.5/32 -j SNAT --to-source 203.0.113.10": "",
        "4 nat hp-snat": (
            "-o qg-1 -j hp-floating\n"
            "-m conntrack --ctstate DNAT -j hp-floating\n"
            "-o qg-1 -m mark ! --mark 0x5 -j SNAT --to-source 203.0.113.1 --random-fully"
        ),
        "4 filter hp-forward": "-o qg-1 -m mark --mark 0x6 -j DROP\n-j RETURN",
    }
    for family in (4, 6):
        found[f"{family} mangle FORWARD {COMMENT} -j hp-mss"] = "first"
        found[f"{family} mangle hp-mss"] = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
    return {f"{space} {key}": value for key, value in found.items()}


DESIRED = {key: value for space in SPACES for key, value in rules(space).items()}
EXTRA = "qrouter-a 4 nat hp-dnat -d 203.0.113.99/32 -j DNAT --to-destination 10.0.0.9"


class CountingRunner(CommandRunner):
    """Remembers which programs it has started."""

    def __init__(self):
        super().__init__()
        self.started_programs: list[str] = []

    def __call__(self, argv, **more):
        self.started_programs.append(argv[0])
        return super().__call__(argv, **more)


@pytest.fixture(params=["nft", "legacy"])
def backend(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with host():
        assert NetnsDriver().apply(Delta(creates=dict.fromkeys(SPACES, "router:1"))) == {}
        yield request.param


@pytest.fixture
def programs():
    return CountingRunner()


@pytest.fixture
def driver(backend, programs):
    return NatDriver(programs, backend)


def saved(backend, space, *words, program="iptables"):
    """What a namespace's tables hold, without counters and dates."""
    lines = within(space, f"{program}-{backend}-save", *words).splitlines()
    return [line for line in lines if not line.startswith("#")]


def foreign(backend, space):
    """What others have in two of the tables."""
    lines = [line for table in ("nat", "filter") for line in saved(backend, space, "-t", table)]
    return [line for line in lines if "hp-" not in line]


def changing(desired, actual):
    return Delta(
        creates={key: value for key, value in desired.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in desired.items() if key in actual and actual[key] != value},
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )


def converge(driver, desired=DESIRED):
    assert driver.apply(changing(desired, driver.observe())) == {}
    assert driver.observe() == desired


def test_everything_of_ours_is_written_and_read_back_and_nothing_else_touched(driver, backend):
    run("ip", "netns", "add", "qrouter-theirs")
    for space in (*SPACES, "qrouter-theirs"):
        within(space, f"iptables-{backend}-restore", stdin=FOREIGN)
    within("qrouter-theirs", f"iptables-{backend}-restore", "--noflush", stdin="*nat\n:hp-dnat - [0:0]\nCOMMIT\n")
    theirs = saved(backend, "qrouter-theirs")
    before = {space: foreign(backend, space) for space in SPACES}

    converge(driver)

    assert driver.observe(dict.fromkeys(DESIRED, OWNER)) == DESIRED
    assert {space: foreign(backend, space) for space in SPACES} == before
    first = next(line for line in saved(backend, SPACES[0], "-t", "nat") if line.startswith("-A PREROUTING"))
    assert first.endswith("-j hp-dnat")
    assert not changing(DESIRED, NatDriver(CommandRunner(), backend).observe())

    converge(driver, {})
    assert all("hp-" not in line for space in SPACES for line in saved(backend, space))
    assert all("hp-" not in line for space in SPACES for line in saved(backend, space, program="ip6tables"))
    assert saved(backend, "qrouter-theirs") == theirs


def test_one_script_for_each_namespace_family_and_pass(driver, backend, programs):
    believed = driver.observe()
    assert programs.started_programs == []  # nothing to be read, so nothing is started

    assert driver.apply(changing(DESIRED, believed)) == {}
    one = [f"iptables-{backend}-restore", f"ip6tables-{backend}-restore"]
    assert programs.started_programs == [*one, *one]
    driver.observe()
    programs.started_programs.clear()
    assert driver.apply(changing({**DESIRED, EXTRA: ""}, DESIRED)) == {}
    assert len(programs.started_programs) == 1
    programs.started_programs.clear()
    driver.observe(dict.fromkeys([EXTRA], OWNER))
    assert len(programs.started_programs) == 1


def test_without_routers_nothing_is_started(programs, backend):
    NetnsDriver().apply(Delta(deletes=dict.fromkeys(SPACES, "router:1"), creates={"hp-metadata": "responder"}))
    driver = NatDriver(programs, backend)
    assert driver.observe() == {}
    assert driver.apply(Delta()) == {}
    assert programs.started_programs == []


BY_HAND = {
    "a rule deleted": ["-t", "nat", "-D", "hp-dnat", "1"],
    "a rule added": ["-t", "nat", "-A", "hp-floating", "-s", "10.0.0.7", "-j", "SNAT", "--to-source", "203.0.113.7"],
    "a rule of an ordered chain added first": ["-t", "nat", "-I", "hp-snat", "-j", "ACCEPT"],
    "a rule doubled": ["-t", "raw", "-A", "hp-notrack", "-i", "qr-+", "-d", "10.0.0.0/24", "-j", "CT", "--notrack"],
    "a table emptied": ["-t", "mangle", "-F"],
    "a chain of ours in a table where there is none": ["-t", "raw", "-N", "hp-dnat"],
    "the jump deleted": ["-t", "nat", "-D", "PREROUTING", "1"],
    "a rule put before the jump": ["-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT"],
}


@pytest.mark.parametrize("what", BY_HAND)
def test_what_was_changed_by_hand_is_seen_at_the_next_reading_and_put_right(driver, backend, what):
    converge(driver)
    before = saved(backend, "qrouter-b")
    within("qrouter-a", f"iptables-{backend}", *BY_HAND[what])
    assert driver.observe_place("qrouter-a 4") != {
        key: value for key, value in DESIRED.items() if key.startswith("qrouter-a 4")
    }

    converge(driver)
    assert saved(backend, "qrouter-b") == before


def test_each_place_is_read_by_itself_and_nothing_is_started_where_nothing_changed(driver, backend, programs):
    converge(driver)
    programs.started_programs.clear()

    found = {place: driver.observe_place(place) for place in driver.places()}

    assert {key: value for part in found.values() for key, value in part.items()} == DESIRED
    assert all(driver.place_of(key) == place for place, part in found.items() for key in part)
    assert len(programs.started_programs) == (0 if backend == "nft" else 4)  # the legacy tables count no changes


def test_what_is_refused_in_one_table_fails_by_name_and_everything_else_gets_in(driver):
    bad_rule = "qrouter-a 4 nat hp-dnat -p tcp -m tcp --dport 70000 -j DNAT --to-destination 10.0.0.9"
    bad_in_kernel = "qrouter-a 4 raw hp-notrack -p sctp -j SNAT --to-source 10.0.0.1"  # of table nat only
    bad_target = "qrouter-a 4 mangle FORWARD " + COMMENT + " -j hp-snat"  # a chain of another table
    bad = {bad_rule: "", bad_in_kernel: "", bad_target: "first"}

    failed = driver.apply(changing({**DESIRED, **bad}, driver.observe()))

    assert set(failed) == set(bad)
    assert driver.observe() == DESIRED
    assert "70000" in str(failed[bad_rule])
    assert all("namespace qrouter-a" in str(error) for error in failed.values())


def test_rules_of_a_namespace_that_is_gone_are_absent_and_deleting_them_is_done(driver):
    converge(driver)
    NetnsDriver().apply(Delta(deletes={"qrouter-a": "router:1"}))

    assert driver.observe() == rules("qrouter-b")
    assert driver.observe(dict.fromkeys(DESIRED, OWNER)) == rules("qrouter-b")
    assert driver.apply(Delta(deletes=rules("qrouter-a"))) == {}
    failed = driver.apply(changing({**DESIRED, EXTRA: ""}, DESIRED))
    assert "there is no namespace qrouter-a" in str(failed[EXTRA])

    NetnsDriver().apply(Delta(creates={"qrouter-a": "router:1"}))  # another one under the same name
    converge(driver)


def test_programs_that_are_missing_are_an_error_of_the_whole(backend, driver):
    converge(driver)
    with pytest.raises(CommandError, match="not installed"):
        NatDriver(CommandRunner(), "nosuch").observe()
    with pytest.raises(CommandError, match="not installed"):
        NatDriver(CommandRunner(), "nosuch").apply(changing(DESIRED, {}))


def test_many_namespaces_are_written_together_and_one_that_is_gone_fails_alone(driver, backend):
    spaces = [f"qrouter-{number}" for number in range(6)] + ["snat-1"]
    NetnsDriver().apply(Delta(creates=dict.fromkeys(spaces[1:], "router:1")))
    many = {key: value for space in spaces for key, value in rules(space).items()}

    failed = driver.apply(changing(many, driver.observe()))

    assert set(failed) == set(rules("qrouter-0"))
    assert driver.observe() == {key: value for key, value in many.items() if key not in failed}
    with pytest.raises(CommandError, match="not installed"):
        NatDriver(CommandRunner(), "nosuch").apply(Delta(creates=many))
