# SPDX-License-Identifier: Apache-2.0
"""Messages come out of a stream as they went in, however it is cut into pieces."""

from __future__ import annotations

import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ovs import json as ovs_json

from agent import ovsdb_json
from agent.ovsdb_json import MessageParser, PackageParser

TRICKY = st.sampled_from(['"', "\\", '\\"', "{", "}", '{"', '"}', "[", "]", "\u2028", "\x00", "é", "𝄞", ""])
TEXTS = st.text(max_size=4) | st.lists(TRICKY, max_size=6).map("".join)
# The package's own parser makes an integer of 1e3; no column that we read has such numbers.
REALS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
SCALARS = st.none() | st.booleans() | st.integers() | REALS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
MESSAGES = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=3)


def without_null(value):
    """Return *value* without what the package's parser refuses, because no database can hold it."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {without_null(key): without_null(inner) for key, inner in value.items()}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def parse_all(pieces):
    """Do what ``ovs.jsonrpc.Connection.recv`` does with what it reads."""
    messages, parser = [], MessageParser()
    for piece in pieces:
        while piece:
            piece = piece[parser.feed(piece) :]
            if parser.is_done():
                messages.append(parser.finish())
                parser = MessageParser()
    return messages


@given(messages=MESSAGES, ascii_only=st.booleans(), between=st.sampled_from(["", "\n", "  "]), size=st.integers(1, 40))
def test_messages_come_out_as_they_went_in(messages, ascii_only, between, size):
    text = between.join(json.dumps(message, ensure_ascii=ascii_only) for message in messages)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    assert parse_all(pieces) == messages


@given(messages=MESSAGES.map(without_null))
def test_they_are_what_the_packages_own_parser_makes_of_them(messages):
    with mock.patch.object(ovs_json, "Parser", PackageParser):  # its methods look for themselves by that name
        for message in messages:
            text = json.dumps(message)
            original = PackageParser()
            original.feed(text)

            assert parse_all([text]) == [original.finish()]


@pytest.mark.parametrize("text", ["}", "hello", "[1, 2]", '{"a" 1}', "7", '"text"'])
def test_what_is_no_message_is_an_error_at_once_and_not_waited_for(text):
    """A string or no object is what ``ovs.jsonrpc`` ends the connection for."""
    parser = MessageParser()
    parser.feed(text)

    assert parser.is_done()
    assert not isinstance(parser.finish(), dict)


def test_a_message_is_complete_with_its_last_brace_and_not_before():
    parser = MessageParser()
    text = '{"a": {"b": "}"}'
    assert parser.feed(text) == len(text)
    assert not parser.is_done()

    assert parser.feed('}{"next"') == 1
    assert parser.finish() == {"a": {"b": "}"}}


def test_connections_of_the_process_use_it():
    ovsdb_json.install()

    assert isinstance(ovs_json.Parser(), MessageParser)
    assert ovs_json.from_string("[1, 2]") == [1, 2]
