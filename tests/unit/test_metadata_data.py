# SPDX-License-Identifier: Apache-2.0
"""What the agent hands over for metadata comes out as it went in, and nothing else comes in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.core.errors import InputError
from agent.metadata.data import (
    Limits,
    NovaData,
    ServiceData,
    decode_metadata,
    decode_service,
    encode_metadata,
    encode_service,
)
from tests.unit.metadata_client import CONTENT, NOVA_PORT, PORT

OCTETS = bytes(range(256))
SERVICE = ServiceData(
    NovaData("https://nova:8775", "shared", "CA", "CERTIFICATE", "KEY", insecure=True, timeout=2.5),
    Limits(rate=1.5, burst=2, connections=3, body=4, patience=5.5),
)


@pytest.mark.parametrize("data", [PORT, NOVA_PORT, replace(PORT, content=replace(CONTENT, user_data=OCTETS))])
def test_a_port_comes_back_as_it_was(data):
    assert decode_metadata(json.loads(json.dumps(encode_metadata(data)))) == data


@pytest.mark.parametrize("data", [SERVICE, ServiceData()])
def test_the_service_comes_back_as_it_was(data):
    assert decode_service(json.loads(json.dumps(encode_service(data)))) == data


def test_what_another_version_says_more_or_less_is_no_trouble():
    value = encode_metadata(PORT)
    content = value["content"]
    assert isinstance(content, dict)
    content["of_tomorrow"] = value["of_tomorrow"] = [1]
    del content["meta"], value["addresses"]

    assert decode_metadata(value) == replace(PORT, addresses=(), content=replace(CONTENT, meta=()))
    assert decode_service({}) == ServiceData()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"port": 1}, "port"),
        ({"aliases": [["100.64.0.1"]]}, "aliases"),
        ({"aliases": "100.64.0.1"}, "aliases"),
        ({"addresses": [4]}, "addresses"),
        ({"content": []}, "content"),
        ({"content": {"user_data": "ä"}}, "user_data"),
        ({"content": {"user_data": "?"}}, "user_data"),
        ({"content": {"ssh_keys": "ssh-rsa"}}, "ssh_keys"),
        ({"content": {"hostname": "\ud800"}}, "hostname"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(change, named):
    with pytest.raises(InputError, match=named):
        decode_metadata({**encode_metadata(PORT), **change})


@pytest.mark.parametrize("missing", ["port", "instance_id", "aliases"])
def test_what_is_missing_is_named(missing):
    value = encode_metadata(PORT)
    del value[missing]
    with pytest.raises(InputError, match=missing):
        decode_metadata(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {"nova": {}},
        {"limits": {"rate": "1"}},
        {"limits": {"burst": True}},
        {"limits": {"rate": float("nan")}},
    ],
)
def test_a_service_that_makes_no_sense_is_refused(value):
    with pytest.raises(InputError):
        decode_service(value)


def test_secrets_are_in_no_message():
    text = repr(SERVICE)
    assert "shared" not in text
    assert "KEY" not in text
