# SPDX-License-Identifier: Apache-2.0
"""What somebody changes by hand in what filters is put right and counted; what is not ours stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.status import client
from tests.functional import filter_host
from tests.functional.lab import Lab, eventually

PROGRAMS = ("iptables", "ip6tables")
FOREIGN = """
iptables -N theirs
iptables -A theirs -s 192.0.2.1/32 -j DROP
iptables -A FORWARD -j theirs
iptables -A INPUT -p tcp -m tcp --dport 25 -j DROP
iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
ipset create theirs hash:net
ipset add theirs 192.0.2.0/24
nft add table inet theirs
nft add chain inet theirs forward '{ type filter hook forward priority 0; policy accept; }'
nft add rule inet theirs forward ip saddr 192.0.2.7 counter drop
"""


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(filter_host.DOCUMENT)
    lab.output("host1", "sh", "-ec", FOREIGN)
    eventually(lambda: has_converged(lab), "host1 has converged")
    return lab


def socket_of(lab: Lab) -> Path:
    return lab.sandbox.host("host1").paths.agent_socket


def has_converged(lab: Lab) -> bool:
    return bool(client.get(socket_of(lab), "/status")["converged"])


def foreign(lab: Lab) -> str:
    """Return everything that filters and is not ours, without counters."""
    lines = lab.output("host1", "iptables-save").splitlines()
    lines = [line for line in lines if "hp" not in line and not line.startswith("#")]
    lines = [re.sub(r"\[\d+:\d+\]", "", line) for line in lines]
    nft = lab.output("host1", "nft", "-s", "list", "table", "inet", "theirs")
    return "\n".join([*lines, nft, lab.output("host1", "ipset", "save", "theirs")])


def chain_of(lab: Lab, prefix: str, holding: str) -> str:
    """Return the name of one of our chains that begins with *prefix* and has a rule with *holding*."""
    rules = lab.output("host1", "iptables-save", "-t", "filter").splitlines()
    return next(line.split()[1] for line in rules if line.startswith(f"-A {prefix}") and holding in line)


def both(lab: Lab, *words: str) -> None:
    for program in PROGRAMS:
        lab.output("host1", program, *words)


def ipv4(lab: Lab, *words: str) -> None:
    lab.output("host1", "iptables", *words)


def reorder(lab: Lab) -> None:
    """Put the rule that drops everything before the others of its chain."""
    chain = chain_of(lab, "hp-p-", "-j hp-g-")
    ipv4(lab, "-I", chain, "-j", "DROP")
    count = lab.output("host1", "iptables", "-S", chain).count("\n-A")
    ipv4(lab, "-D", chain, str(count))


def group_chain(lab: Lab) -> str:
    return chain_of(lab, "hp-g-", "--dport 8000")


def jump(lab: Lab, program: str) -> str:
    """Return our rule in FORWARD."""
    rules = lab.output("host1", program, "-S", "FORWARD").splitlines()
    return next(line for line in rules if "hp-forward" in line)


def move_jump(lab: Lab) -> None:
    """Move our jump behind what others have."""
    for program in PROGRAMS:
        ours = jump(lab, program)
        lab.output("host1", "sh", "-ec", f"{program} {ours.replace('-A', '-D', 1)}; {program} {ours}")


def double_jump(lab: Lab) -> None:
    for program in PROGRAMS:
        lab.output("host1", "sh", "-ec", f"{program} {jump(lab, program)}")


def member_set(lab: Lab) -> tuple[str, str]:
    """Return a set of ours and one of its elements."""
    lines = lab.output("host1", "ipset", "save").splitlines()
    add = next(line.split() for line in lines if line.startswith("add hp-4-"))
    return add[1], add[2]


def nft_zone(lab: Lab) -> tuple[str, str]:
    """Return the map with the zones, and the bridge of a port."""
    listing = lab.output("host1", "nft", "list", "table", "inet", "hostplane")
    name = re.search(r"map (\w+)", listing)
    assert name is not None
    return name[1], filter_host.devices(lab, "victim")["qbr"]


BY_HAND: dict[str, Callable[[Lab], object]] = {
    "a rule of a group is deleted": lambda lab: ipv4(lab, "-D", group_chain(lab), "1"),
    "a rule is added to a group": lambda lab: ipv4(lab, "-A", group_chain(lab), "-p", "tcp", "-j", "hp-accept"),
    "a rule of a group is doubled": lambda lab: lab.output(
        "host1", "sh", "-ec", f"iptables $(iptables -S {group_chain(lab)} | tail -1)"
    ),
    "a group's chain is flushed": lambda lab: ipv4(lab, "-F", group_chain(lab)),
    "a port's chain accepts everything": lambda lab: both(lab, "-I", chain_of(lab, "hp-p-", "DROP"), "-j", "ACCEPT"),
    "a port's chain is in another order": reorder,
    "a port is taken out of the tree": lambda lab: ipv4(lab, "-D", chain_of(lab, "hp-t-", "physdev"), "1"),
    "the established are no longer accepted": lambda lab: ipv4(lab, "-D", "hp-forward", "1"),
    "our jump comes after others": move_jump,
    "our jump is there twice": double_jump,
    "a bridge has no zone": lambda lab: lab.output(
        "host1", "nft", "delete", "element", "inet", "hostplane", nft_zone(lab)[0], f"{{ {nft_zone(lab)[1]} }}"
    ),
    "the guard is empty": lambda lab: lab.output("host1", "nft", "flush", "table", "bridge", "hostplane"),
    "the guard accepts everything": lambda lab: lab.output(
        "host1",
        "sh",
        "-ec",
        "c=$(nft list table bridge hostplane | awk '/chain/{print $2;exit}');"
        " nft insert rule bridge hostplane $c accept",
    ),
    "a member is deleted": lambda lab: lab.output("host1", "ipset", "del", *member_set(lab)),
    "a member is added": lambda lab: lab.output("host1", "ipset", "add", member_set(lab)[0], "203.0.113.0/24"),
    "a set is flushed": lambda lab: lab.output("host1", "ipset", "flush", member_set(lab)[0]),
}


@pytest.mark.parametrize("what", BY_HAND)
def test_what_is_changed_by_hand_is_put_right_and_counted(lab: Lab, what: str) -> None:
    before, theirs, found = filter_host.tables(lab), foreign(lab), filter_host.drift(lab)
    BY_HAND[what](lab)
    if "member" in what or "set" in what:  # of IP sets the kernel tells nobody; a sweep comes by after a while
        client.post(socket_of(lab), "/resync")
    filter_host.wait_repaired(lab, before, what)
    eventually(lambda: filter_host.drift(lab) > found, f"{what}: counted")
    assert foreign(lab) == theirs


def test_a_stranger_in_our_set_is_thrown_out_by_the_sweep_alone(lab: Lab) -> None:
    before = filter_host.sets(lab)
    lab.output("host1", "ipset", "add", member_set(lab)[0], "203.0.113.0/24")
    assert filter_host.sets(lab) != before
    lab.sandbox.restart("host1", "agent", kill=True)
    eventually(lambda: filter_host.sets(lab) == before, "a restarted agent has thrown it out")


def test_nothing_of_ours_is_left_when_the_ports_have_gone(lab: Lab) -> None:
    theirs = foreign(lab)
    for port in filter_host.PORTS[1:]:
        lab.applied(lab.writer.delete_port(port))
    rest = filter_host.tables(lab)
    friend = filter_host.devices(lab, "friend")
    # Of the gone ports' devices only the flags of their bridges, which their owner takes down, are still seen.
    rules = "\n".join(line for line in rest.splitlines() if not line.startswith("/sys"))
    assert set(re.findall(r"qbr[0-9a-f]{8}-[0-9a-f]{2}", rules)) == {friend["qbr"]}
    assert len(re.findall(r":hp-p-", rules)) <= 4
    assert foreign(lab) == theirs
