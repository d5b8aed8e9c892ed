# SPDX-License-Identifier: Apache-2.0
"""What somebody changes by hand in the tables of driver ``zones`` is seen and put right.  Needs root."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import pytest

from agent.command import CommandRunner
from agent.core.errors import ApplyError, CommandError
from agent.core.plan import Delta
from agent.drivers.zones import ZonesDriver
from tests.ovs.test_driver_zones_packets import WithoutNft
from tests.ovs.zone_bridges import namespace, shell

WANTED = {"base": "present", "qbr00000000-aa": "5", "qbr11111111-bb": "6 notrack"}


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with namespace():
        yield


@pytest.fixture
def flushed() -> list[int]:
    return []


@pytest.fixture
def driver(flushed: list[int]) -> ZonesDriver:
    return ZonesDriver(CommandRunner(), flushed.extend)


def handle(family: str, chain: str, place: int) -> int:
    """Return the handle of a rule by its place in its chain."""
    listed = json.loads(shell(f"nft -j list chain {family} hostplane {chain}"))["nftables"]
    return [entry["rule"]["handle"] for entry in listed if "rule" in entry][place]


def delete(family: str, chain: str, place: int) -> str:
    return f"nft delete rule {family} hostplane {chain} handle {handle(family, chain, place)}"


MEDDLING = {
    "zone rule gone": lambda: delete("inet", "zones", 2),
    "mark no longer cleared": lambda: delete("inet", "zones", 0),
    "fragments untracked, too": lambda: delete("inet", "untracked", 2),
    "drop gone": lambda: delete("bridge", "allowed", 2),
    "one direction": lambda: delete("bridge", "guard", 1),
    "rule before": lambda: "nft insert rule bridge hostplane guard accept",
    "rule behind": lambda: "nft add rule bridge hostplane guard counter",
    "other order": lambda: (
        f"{delete('bridge', 'guard', 0)}; nft add rule bridge hostplane guard iifname 'qvb*' goto allowed"
    ),
    "other mark": lambda: (
        f"nft replace rule bridge hostplane allowed handle {handle('bridge', 'allowed', 1)}"
        " ether type ip meta mark and 0x10000000 == 0x10000000 accept"
    ),
    "commented": lambda: "nft add rule inet hostplane zones counter comment x",
    "flushed": lambda: "nft flush table bridge hostplane",
    "foreign chain": lambda: "nft add chain inet hostplane mine",
    "asleep": lambda: "nft add table bridge hostplane '{ flags dormant; }'",
    "other policy": lambda: "nft add chain inet hostplane zones '{ policy drop; }'",
    "guard gone": lambda: "nft delete table bridge hostplane",
}


@pytest.mark.parametrize("what", MEDDLING)
def test_a_change_of_the_base_is_seen_and_undone_without_touching_zones(driver, flushed, what):
    assert driver.apply(Delta(creates=WANTED)) == {}
    before = shell("nft list tables; nft list table inet hostplane; nft list table bridge hostplane")
    assert driver.observe() == WANTED
    flushed.clear()

    shell(MEDDLING[what]())
    seen = driver.observe()
    assert seen["base"] != "present"
    assert {**seen, "base": "present"} == WANTED

    assert driver.apply(Delta(updates={"base": (seen["base"], "present")})) == {}
    assert driver.observe() == WANTED
    after = shell("nft list tables; nft list table inet hostplane; nft list table bridge hostplane")
    assert sorted(after.splitlines()) == sorted(before.splitlines())
    assert flushed == []


def test_elements_changed_by_hand_are_put_right_and_their_zones_emptied(driver, flushed):
    driver.apply(Delta(creates=WANTED))
    flushed.clear()
    shell(
        """nft 'delete element inet hostplane zones { "qbr00000000-aa" }'
        nft 'add element inet hostplane zones { "eth0" : 7 }'
        nft 'delete element inet hostplane untracked { "qbr11111111-bb" }'
        nft 'add element inet hostplane untracked { "eth1" }'"""
    )
    seen = driver.observe()
    assert seen == {"base": "present", "eth0": "7", "eth1": "0 notrack", "qbr11111111-bb": "6"}

    creates = {"qbr00000000-aa": "5"}
    updates = {"qbr11111111-bb": ("6", "6 notrack")}
    assert driver.apply(Delta(creates, updates, {"eth0": "7", "eth1": "0 notrack"})) == {}

    assert driver.observe() == WANTED
    assert flushed == [5, 6]


def test_a_fresh_process_sees_what_the_last_one_wrote_and_a_lost_table_comes_back(driver, flushed):
    driver.apply(Delta(creates=WANTED))
    fresh = ZonesDriver(CommandRunner(), flushed.extend)
    assert fresh.observe() == WANTED
    assert fresh.limits() == ()

    shell("nft flush ruleset")
    assert fresh.observe() == {}
    assert fresh.apply(Delta(creates=WANTED)) == {}
    assert fresh.observe() == WANTED
    assert fresh.apply(Delta(deletes=WANTED)) == {}
    assert shell("nft list ruleset") == ""


def test_a_zone_that_could_not_be_emptied_is_not_used(driver):
    def stuck(zones: Collection[int]) -> None:
        raise ApplyError(f"zones {zones} cannot be emptied")

    closed = ZonesDriver(CommandRunner(), stuck)
    failed = closed.apply(Delta(creates=WANTED))

    assert failed.keys() == WANTED.keys() - {"base"}
    assert closed.observe() == {"base": "present"}
    assert driver.apply(Delta(creates=WANTED)) == {}
    assert closed.apply(Delta(creates=WANTED)) == {}  # in force already: nothing to empty


def test_what_cannot_be_written_is_that_keys_error(driver):
    bad = {"qbr2": "0", "qbr3": "65536", "qbr4": "x", "eth0": "7", 'qbr"': "7"}
    failed = driver.apply(Delta(creates={**WANTED, **bad}))

    assert failed.keys() == bad.keys()
    assert all(key in str(error) for key, error in failed.items())
    assert driver.observe() == WANTED


def test_another_nft_that_prints_differently_is_believed_after_writing(driver):
    class Newer(CommandRunner):
        def __call__(self, argv, **options):
            return super().__call__(argv, **options).replace('"goto"', '"go_to"')

    driver.apply(Delta(creates=WANTED))
    newer = ZonesDriver(Newer(), lambda zones: None)
    assert newer.observe()["base"] != "present"

    assert newer.apply(Delta(updates={"base": ("", "present")})) == {}
    assert newer.observe() == WANTED
    shell("nft insert rule bridge hostplane guard accept")
    assert newer.observe()["base"] != "present"


def test_an_nft_that_fails_for_a_moment_is_an_error_and_no_limit(driver):
    class Hanging(CommandRunner):
        def __call__(self, argv, **options):
            raise CommandError(argv, None, "no end after 10 s")

    hanging = ZonesDriver(Hanging(), lambda zones: None)
    with pytest.raises(CommandError):
        hanging.observe()
    assert hanging.limits() == ()


RAW_MEDDLING = (
    "{0} -t raw -F hp-zones",
    "{0} -t raw -D PREROUTING 1",
    "{0} -t raw -I PREROUTING -j ACCEPT",
    "{0} -t raw -A PREROUTING -i qbr+ -j hp-zones",
    "{0} -t raw -I hp-zones -j RETURN",
    "{0} -t raw -N hp-zones-left; {0} -t raw -A hp-zones-left -j ACCEPT",
    "printf '*raw\\nCOMMIT\\n' | {0}-restore",
)


@pytest.mark.parametrize(("backend", "family"), [("nft", "iptables"), ("legacy", "ip6tables")])
def test_raw_tables_are_repaired_and_foreign_rules_stay(flushed, backend, family):
    driver = ZonesDriver(WithoutNft(), flushed.extend, backend)
    shell(f"{family}-{backend} -t raw -A OUTPUT -p udp -j ACCEPT; {family}-{backend} -t raw -N foreign")
    for meddling in RAW_MEDDLING:
        delta = Delta(creates={key: value for key, value in WANTED.items() if driver.observe().get(key) != value})
        assert driver.apply(delta) == {}
        assert driver.observe() == WANTED
        shell(meddling.format(f"{family}-{backend}"))
        assert driver.observe() != WANTED, meddling

    assert driver.apply(Delta(creates=WANTED)) == {}
    assert driver.observe() == WANTED
    assert driver.apply(Delta(deletes=WANTED)) == {}
    assert "hp-" not in shell(f"{family}-{backend}-save -t raw")


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_chains_from_the_time_before_nft_came_are_swept(driver, flushed, backend):
    ZonesDriver(WithoutNft(), flushed.extend, backend).apply(Delta(creates=WANTED))
    shell(f"iptables-{backend} -t raw -A OUTPUT -p udp -j ACCEPT")

    assert driver.observe() == {}

    assert driver.apply(Delta(creates=WANTED)) == {}
    for family in ("iptables", "ip6tables"):
        assert "hp-" not in shell(f"{family}-{backend}-save -t raw")
    assert "-A OUTPUT -p udp -j ACCEPT" in shell(f"iptables-{backend}-save -t raw")


def test_legacy_tables_do_not_come_into_being_because_of_us(driver):
    driver.apply(Delta(creates=WANTED))
    assert driver.observe() == WANTED
    assert shell("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names") == ""
