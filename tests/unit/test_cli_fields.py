# SPDX-License-Identifier: Apache-2.0
"""The field tables, the options that come of them, and the classes that the writer takes are one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from agent.cli.apply import read_document
from agent.cli.field_options import add_field_options, given_fields
from agent.cli.fields import METADATA_SERVICE, NETWORK, PORT, RULE_FIELDS, SECURITY_GROUP, SUBNET
from agent.cli.nouns import NOUNS, SECTIONS
from agent.cli.router_fields import PORT_FORWARDING
from agent.core.errors import InputError
from agent.store.document import Document, FixedIpRequest, HostRoute, RuleFields, given

EXAMPLES = Path(__file__).parents[2] / "examples"


ALL_NOUNS = (*NOUNS.values(), METADATA_SERVICE, PORT_FORWARDING)


@pytest.mark.parametrize("noun", ALL_NOUNS, ids=lambda noun: noun.name)
def test_every_field_of_the_writer_is_offered_and_no_other(noun) -> None:
    taken = [field.name for field in dataclasses.fields(noun.make())]
    assert sorted(field.name for field in noun.fields) == sorted(taken)


def test_every_field_of_a_rule_is_offered_and_no_other() -> None:
    taken = {field.name for field in dataclasses.fields(RuleFields)} - {"line"}
    assert {field.name for field in RULE_FIELDS} == taken


def test_every_section_of_a_document_is_read() -> None:
    assert sorted(SECTIONS) == sorted(field.name for field in dataclasses.fields(Document))


@pytest.mark.parametrize("noun", ALL_NOUNS, ids=lambda noun: noun.name)
def test_no_two_options_are_called_the_same(noun) -> None:
    flags = [flag for f in noun.fields for flag in (f.flag, f.negative_flag, f.none_flag) if flag]
    assert len(flags) == len(set(flags))


def parsed(noun, *words: str):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_field_options(parser, noun.fields)
    return given(given_fields(parser.parse_args(words), noun))


@pytest.mark.parametrize(
    ("noun", "words", "fields"),
    [
        (PORT, [], {}),
        (PORT, ["--admin-state-down"], {"admin_state_up": False}),
        (PORT, ["--admin-state-up", "--no-port-security"], {"admin_state_up": True, "port_security": False}),
        (
            PORT,
            ["--fixed-ip", "10.0.0.1", "--fixed-ip", "subnet=a,ip-address=10.0.0.2", "--fixed-ip", "subnet=b"],
            {
                "fixed_ips": (
                    FixedIpRequest("10.0.0.1"),
                    FixedIpRequest("10.0.0.2", "a"),
                    FixedIpRequest(subnet="b"),
                )
            },
        ),
        (PORT, ["--no-fixed-ip", "--no-allowed-address-pair"], {"fixed_ips": (), "allowed_address_pairs": ()}),
        (PORT, ["--security-group", "a", "--security-group", "b"], {"security_groups": ("a", "b")}),
        (PORT, ["--no-security-groups"], {"security_groups": ()}),
        (PORT, ["--no-filter"], {"security_groups": None}),
        (
            SECURITY_GROUP,
            ["--stateless", "--no-rules", "--log", "drop"],
            {"stateful": False, "rules": (), "log": ("drop",)},
        ),
        (PORT, ["--external-id", "a=b=c", "--external-id", "d="], {"external_ids": {"a": "b=c", "d": ""}}),
        (NETWORK, ["--segmentation-id", "7", "--mtu", "1400"], {"segmentation_id": 7, "mtu": 1400}),
        (NETWORK, ["--no-segmentation-id", "--no-physnet"], {"segmentation_id": None, "physnet": None}),
        (SUBNET, ["--no-gateway", "--no-dhcp"], {"gateway": None, "dhcp": False}),
        (
            SUBNET,
            ["--dns", "10.0.0.2", "--dns", "10.0.0.3", "--host-route", "destination=10.9.0.0/16,nexthop=10.0.0.9"],
            {"dns": ("10.0.0.2", "10.0.0.3"), "host_routes": (HostRoute("10.9.0.0/16", "10.0.0.9"),)},
        ),
        (SUBNET, ["--host-route", "gateway=b,destination=a"], {"host_routes": (HostRoute("a", "b"),)}),
        (SUBNET, ["--no-dns", "--no-host-route"], {"dns": (), "host_routes": ()}),
        (
            PORT,
            ["--dhcp-option", "mtu=1400", "--dhcp-option", "wpad=http://a/?b=c", "--dhcp-option", "option6:59="],
            {"dhcp_options": {"mtu": "1400", "wpad": "http://a/?b=c", "option6:59": ""}},
        ),
        (
            PORT,
            ["--metadata", "meta:role=web", "--hostname", "web"],
            {"metadata": {"meta:role": "web"}, "hostname": "web"},
        ),
        (PORT, ["--no-metadata", "--no-dhcp-option"], {"metadata": {}, "dhcp_options": {}}),
        (
            METADATA_SERVICE,
            ["--request-timeout", "2.5", "--secure", "--no-ca-file"],
            {"timeout": 2.5, "insecure": False, "ca_file": None},
        ),
        (SUBNET, ["--allocation-pool", "a-b", "--allocation-pool", "c-d"], {"allocation_pools": ("a-b", "c-d")}),
    ],
)
def test_options_give_their_fields(noun, words: list[str], fields: dict[str, object]) -> None:
    assert parsed(noun, *words) == fields


@pytest.mark.parametrize(
    "words",
    [
        ["--fixed-ip", "subnet=a,subnet=b"],
        ["--fixed-ip", "net=a"],
        ["--external-id", "a"],
        ["--fixed-ip", "10.0.0.1", "--no-fixed-ip"],
        ["--port-security", "--no-port-security"],
        ["--no-filter", "--no-security-groups"],
        ["--security-group", "a", "--no-filter"],
    ],
)
def test_nonsense_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(PORT, *words)


@pytest.mark.parametrize("route", ["10.0.0.0/8", "destination=a", "nexthop=a", "destination=a,nexthop=b,metric=1"])
def test_a_host_route_names_destination_and_next_hop(route: str) -> None:
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(SUBNET, "--host-route", route)


def test_metadata_come_from_files_too(tmp_path: Path) -> None:
    files = {"script": b"#!/bin/sh\n", "image": b"\x1f\x8b\x00", "one": b"ssh-rsa A\n", "two": b"ssh-rsa B\n"}
    paths = {}
    for name, content in files.items():
        paths[name] = str(tmp_path / name)
        (tmp_path / name).write_bytes(content)
    words = ["--ssh-key-file", paths["one"], "--ssh-key-file", paths["two"], "--metadata", "instance_id=i-1"]
    assert parsed(PORT, *words, "--user-data-file", paths["script"]) == {
        "metadata": {
            "instance_id": "i-1",
            "ssh_keys": "ssh-rsa A\nssh-rsa B\n",
            "user_data": "#!/bin/sh\n",
        }
    }
    assert parsed(PORT, "--user-data-file", paths["image"]) == {"metadata": {"user_data_base64": "H4sA"}}
    with pytest.raises(InputError, match="user_data is given twice"):
        parsed(PORT, "--user-data-file", paths["script"], "--metadata", "user_data=x")
    for wrong in (["--vendor-data-file", paths["image"]], ["--user-data-file", str(tmp_path / "none")]):
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            parsed(PORT, *wrong)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    assert read_document(str(example)).ports
