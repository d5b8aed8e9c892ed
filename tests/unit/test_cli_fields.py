# SPDX-License-Identifier: Apache-2.0
"""The field tables, the options that come of them, and the classes that the writer takes are one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from agent.cli.apply import read_document
from agent.cli.field_options import add_field_options, given_fields
from agent.cli.fields import NETWORK, NOUNS, PORT, RULE_FIELDS, SECURITY_GROUP, SUBNET
from agent.store.document import Document, FixedIpRequest, RuleFields, given

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("noun", NOUNS.values(), ids=lambda noun: noun.name)
def test_every_field_of_the_writer_is_offered_and_no_other(noun) -> None:
    taken = [field.name for field in dataclasses.fields(noun.make())]
    assert sorted(field.name for field in noun.fields) == sorted(taken)


def test_every_field_of_a_rule_is_offered_and_no_other() -> None:
    taken = {field.name for field in dataclasses.fields(RuleFields)} - {"line"}
    assert {field.name for field in RULE_FIELDS} == taken


def test_every_section_of_a_document_is_read() -> None:
    assert sorted(NOUNS) == sorted(field.name for field in dataclasses.fields(Document))


@pytest.mark.parametrize("noun", NOUNS.values(), ids=lambda noun: noun.name)
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


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    assert read_document(str(example)).ports
