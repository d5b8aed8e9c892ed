# SPDX-License-Identifier: Apache-2.0
"""What somebody wrote past the writer, and hosts that shall not filter: what goes on, and what operators are told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agent.cli.yaml_file import parse_file
from agent.store.document import PortFields, RuleFields
from agent.store.writer import Writer
from tests.functional.lab import REPOSITORY, Lab, eventually, hostplane

DOCUMENT = """
networks:
  blue: {type: vxlan}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
address_groups:
  office: [10.0.0.12]
security_groups:
  web:
    - {direction: ingress, protocol: icmp, remote_address_group: office}
    - {direction: egress}
  db:
    - {direction: ingress, protocol: icmp}
    - {direction: egress}
  quick: {stateful: false}
ports:
  victim: {network: blue, host: host1, fixed_ips: [10.0.0.11], security_groups: [web]}
  other:  {network: blue, host: host1, fixed_ips: [10.0.0.12], security_groups: [db]}
  free:   {network: blue, host: host1, fixed_ips: [10.0.0.13]}
"""
MANY = 10_000  # rules of one group


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_lab(1)
    lab.bring_up(DOCUMENT)
    lab.assert_connection("other", "10.0.0.11")
    return lab


def transact(lab: Lab, *operations: dict[str, object]) -> None:
    """Write into the store as somebody who knows better, one revision more."""
    step = {"op": "mutate", "table": "Global", "where": [], "mutations": [["revision", "+=", 1]]}
    request = json.dumps(["Hostplane", *operations, step])
    done = subprocess.run(
        ["ovsdb-client", "transact", lab.sandbox.paths.store_address, request],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "error" not in done.stdout, done.stdout


def bad_rule(group: str, **columns: object) -> dict[str, object]:
    row = {"group": ["uuid", group], "direction": "ingress", "ethertype": "IPv4", **columns}
    return {"op": "insert", "table": "Security_Group_Rule", "row": row}


def ask(lab: Lab, *words: str) -> str:
    done = hostplane(*words, environment=lab.sandbox.host("host1").environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def port_page(lab: Lab, port: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(lab, "status", "port", port, "-o", "json"))["ports"][0]
    return found


def texts(lab: Lab, port: str) -> list[str]:
    return [problem["text"] for problem in port_page(lab, port)["problems"]]


def test_rules_that_make_no_sense_are_left_out_and_named_where_somebody_looks(lab: Lab) -> None:
    web = lab.writer.get_security_group("web").id
    transact(
        lab,
        bad_rule(web, protocol=6, port_range_min=90, port_range_max=80),
        bad_rule(web, remote_ip_prefix="2001:db8::/32"),
        bad_rule(web, protocol=0),
    )
    eventually(lambda: len(texts(lab, "victim")) == 3, "the three rules are named")
    found = texts(lab, "victim")
    assert all(text.startswith("security group web, rule ") for text in found)
    assert all(text.endswith("; the rule is left out") for text in found)
    assert {"90..80", "2001:db8::/32", "protocol 0"} == {
        word for word in ("90..80", "2001:db8::/32", "protocol 0") if any(word in text for text in found)
    }
    page = port_page(lab, "victim")
    assert page["up"]
    assert page["reason"] in found  # and so it stands in the store, for those who wait
    assert texts(lab, "other") == []
    assert all(text in ask(lab, "status", "problems") for text in found)
    assert lab.ping("other", "10.0.0.11")  # by a rule beside them
    again = hostplane(
        *("security-group-rule", "create", "web", "--direction", "ingress", "--protocol", "tcp", "--ports", "80"),
        "--wait",
        environment=lab.sandbox.host("host1").environment(),
    )
    assert again.returncode == 3
    assert "port victim: up, but not as it should be, on host1: security group web, rule " in again.stderr


def test_addresses_that_are_none_and_that_overlap(lab: Lab) -> None:
    office = lab.writer.get_address_group("office").id
    wrong = ["everybody", "fe80::1%eth0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.12/32", "0.0.0.0/0", "0.0.0.0/1"]
    mutation = ["addresses", "insert", ["map", [[address, 1] for address in wrong]]]
    where = [["owner", "==", ["uuid", office]]]
    transact(lab, {"op": "mutate", "table": "Address_Chunk", "where": where, "mutations": [mutation]})
    said = "address group office: 'everybody' and 1 more are no addresses; left out"
    eventually(lambda: said in texts(lab, "victim"), "the addresses are named")
    assert "address group office" in ask(lab, "status", "port", "victim")  # who the rule is for
    eventually(lambda: lab.ping("free", "10.0.0.11", wait=0.2), "free is among them now")
    lab.applied(lab.writer.remove_addresses("office", (*wrong[:4], *wrong[5:])))
    assert said not in texts(lab, "victim")
    assert not lab.ping("free", "10.0.0.11", wait=0.3)
    assert lab.ping("other", "10.0.0.11")


def test_a_port_whose_groups_contradict_each_other_stays_shut_alone(lab: Lab) -> None:
    quick = lab.writer.get_security_group("quick").id
    mutation = ["security_groups", "insert", ["set", [["uuid", quick]]]]
    where = [["name", "==", "other"]]
    transact(lab, {"op": "mutate", "table": "Port", "where": where, "mutations": [mutation]})
    lab.wait_port("other", up=False)
    assert "quick (stateless)" in port_page(lab, "other")["reason"]
    assert "db (stateful)" in port_page(lab, "other")["reason"]
    assert not lab.ping("victim", "10.0.0.12", wait=0.3)
    assert lab.ping("victim", "10.0.0.13")
    lab.applied(lab.writer.set_port("other", PortFields(security_groups=("db",))))
    lab.wait_port("other", up=True)
    lab.assert_connection("victim", "10.0.0.12")


def test_a_group_of_ten_thousand_rules_is_in_force_with_the_next_one(lab: Lab) -> None:
    many = tuple(
        RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports=port) for port in range(1, MANY + 1)
    )
    # Three seconds of work for the writer, and more on a machine that does something else as well.
    with Writer.connect([lab.sandbox.paths.store_address], timeout=60) as patient:
        lab.applied(patient.add_security_group_rules("db", many))
    lab.applied(
        lab.writer.add_security_group_rules("db", (RuleFields(direction="ingress", ethertype="IPv4", protocol="gre"),))
    )
    found = port_page(lab, "other")
    assert found["up"]
    assert not found["problems"]
    rules = found["filter"]["security_groups"][0]["rules"]
    assert len(rules) > MANY
    assert all(rule["packets"] is not None for rule in rules)  # each one is in place


def test_a_host_that_shall_not_filter_shuts_filtered_ports_and_leaves_nothing_behind(lab: Lab) -> None:
    lab.writer.apply(parse_file(b"ports:\n  bridged: {network: blue, host: host1, fixed_ips: [10.0.0.14]}\n", "test"))
    config = lab.sandbox.host("host1").paths.agent_config
    text = config.read_text()
    config.write_text(text.replace("[filters]\n", "[filters]\nenabled = false\n"))
    lab.sandbox.restart("host1", "agent")
    lab.wait_port("victim", up=False)
    assert "[filters] enabled" in port_page(lab, "victim")["reason"]
    assert not lab.ping("other", "10.0.0.11", wait=0.3)
    for command in (("iptables-save",), ("ip6tables-save",), ("nft", "list", "ruleset"), ("ipset", "list", "-n")):
        left = lab.output("host1", *command)
        assert "hp-" not in left, left
        assert "hostplane" not in left, left
    # Plugged in as filtered ports are, and now that nothing filters nothing drops either.
    lab.output("host1", "ip", "netns", "add", "bridged")
    plugged = hostplane_on(lab, "plug", "bridged", "--netns", "bridged", "--hybrid")
    assert plugged.returncode == 0, plugged.stderr
    lab.wait_port("bridged", up=True)
    lab.assert_connection("bridged", "10.0.0.13")
    config.write_text(text)
    lab.sandbox.restart("host1", "agent")
    lab.wait_port("victim", up=True)
    lab.assert_connection("other", "10.0.0.11")
    lab.assert_connection("bridged", "10.0.0.13")
    assert not lab.ping("free", "10.0.0.11", wait=0.3)


def hostplane_on(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.run("host1", "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "agent.cli.main", *words)
