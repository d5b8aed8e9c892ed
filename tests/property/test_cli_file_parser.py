# SPDX-License-Identifier: Apache-2.0
"""The file parser on any input: a document, or an InputError that names the file; never anything else."""

from __future__ import annotations

from types import MappingProxyType

import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.fields import METADATA_SERVICE, RULE_FIELDS, Kind
from agent.cli.nouns import NOUNS
from agent.cli.router_fields import PORT_FORWARDING, ROUTER
from agent.cli.yaml_file import parse_file
from agent.core.errors import InputError
from agent.core.port_metadata import KEYS
from agent.store import document, metadata_form

PLAIN_WORDS = "networks ports vm1 host fixed_ips : { } [ ] - &a *a << !!str 10.0.0.1 true null ' \" # ? | > % @ --- ..."
WORDS = st.sampled_from([*PLAIN_WORDS.split(), " ", "\n", "\t", "é", "\x85", "\ufeff", '"a\\nb"'])


@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=40).map(lambda words: "".join(words).encode())))
def test_any_bytes_are_a_document_or_an_error_that_names_the_file(data: bytes) -> None:
    complaints = ""
    try:
        parse_file(data, "f.yaml")
    except InputError as err:
        complaints = str(err)
    assert all(line.startswith("f.yaml:") for line in complaints.splitlines())


TEXT = st.text(min_size=1, max_size=12, alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z")))
JSON = st.recursive(
    st.one_of(TEXT, st.integers(-(10**9), 10**9), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        **{key: TEXT for key in KEYS if key not in ("ssh_keys", "vendor_data")},
        "ssh_keys": st.lists(TEXT, max_size=3),
        "vendor_data": TEXT | st.dictionaries(TEXT, JSON, min_size=1, max_size=3),
        "meta": st.dictionaries(TEXT, TEXT, min_size=1, max_size=3),
    },
)
VALUES = {
    Kind.TEXT: TEXT,
    Kind.INTEGER: st.integers(-(10**9), 10**9),
    Kind.BOOLEAN: st.booleans(),
    Kind.TEXTS: st.lists(TEXT, max_size=3),
    Kind.MAPPING: st.dictionaries(TEXT, TEXT, max_size=3),
    Kind.NUMBER: st.integers(0, 10**6).map(lambda number: number / 1000),
    Kind.ROUTES: st.lists(st.fixed_dictionaries({"destination": TEXT, "nexthop": TEXT}), max_size=3),
    Kind.METADATA: METADATA,
    Kind.FIXED_IPS: st.lists(
        st.one_of(TEXT, st.fixed_dictionaries({"subnet": TEXT}, optional={"address": TEXT})), max_size=3
    ),
    Kind.INTERFACES: st.lists(st.one_of(TEXT, st.fixed_dictionaries({"subnet": TEXT, "address": TEXT})), max_size=3),
}
GATEWAY = st.fixed_dictionaries(
    {"network": TEXT}, optional={"hosts": VALUES[Kind.TEXTS], "fixed_ips": VALUES[Kind.FIXED_IPS]}
)


def fields_of(fields, together=MappingProxyType({})):
    apart = {name for names in together.values() for name in names.values()}
    choices = {
        f.name: st.one_of(VALUES[f.kind], *([st.none()] if f.nullable else [])) for f in fields if f.name not in apart
    }
    return st.fixed_dictionaries({}, optional={**choices, **dict.fromkeys(together, st.none() | GATEWAY)})


# Of a rule, what is none and what is not given are the same.
RULES = st.fixed_dictionaries({}, optional={field.name: VALUES[field.kind] for field in RULE_FIELDS})
VALUES[Kind.RULES] = st.lists(RULES, max_size=3)


FILES = st.fixed_dictionaries(
    {},
    optional={
        **{
            noun.section: st.dictionaries(TEXT, fields_of(noun.fields, noun.together), max_size=3)
            for noun in NOUNS.values()
        },
        PORT_FORWARDING.section: st.lists(
            st.tuples(st.fixed_dictionaries({"external": TEXT}), fields_of(PORT_FORWARDING.fields)).map(
                lambda parts: parts[0] | parts[1]
            ),
            max_size=3,
        ),
        METADATA_SERVICE.section: fields_of(METADATA_SERVICE.fields),
    },
)


def written_back(entry) -> dict[str, object]:
    values = {}
    for name, value in document.given(entry.fields).items():
        values[name] = [plain(item) for item in value] if isinstance(value, tuple) else value
        if name == "metadata" and isinstance(value, dict):
            values[name] = metadata_form.structured(value)
        if name == "interfaces" and isinstance(value, tuple):
            values[name] = [item.subnet if item.address is None else plain(item) for item in value]
    if isinstance(entry.fields, document.RouterFields) and "external_network" in values:
        names = ROUTER.together["gateway"]
        parts = {name: values.pop(field) for name, field in names.items() if field in values}
        values["gateway"] = None if parts["network"] is None else parts
    return values


def plain(item):
    if isinstance(item, document.HostRoute):
        return {"destination": item.destination, "nexthop": item.nexthop}
    if isinstance(item, document.RuleFields):
        unset = document.RuleFields()
        values = {field.name: getattr(item, field.name) for field in RULE_FIELDS}
        return {name: value for name, value in values.items() if value != getattr(unset, name)}
    if not isinstance(item, document.FixedIpRequest):
        return item
    parts = {"subnet": item.subnet, "address": item.address}
    return item.address if item.subnet is None else {key: value for key, value in parts.items() if value is not None}


@given(FILES, st.booleans())
def test_what_another_yaml_writer_wrote_is_read_as_it_was_meant(content, flow: bool) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, default_flow_style=flow)
    parsed = parse_file(text.encode(), "f.yaml")
    service = content.pop(METADATA_SERVICE.section, None)
    assert (parsed.metadata_service and written_back(parsed.metadata_service)) == service
    forwardings = content.pop(PORT_FORWARDING.section, [])
    assert [{"external": e.name, **written_back(e)} for e in parsed.port_forwardings] == forwardings
    for section, objects in content.items():
        assert {entry.name: written_back(entry) for entry in getattr(parsed, section)} == objects


@given(FILES)
def test_lines_point_at_the_object(content) -> None:
    text = yaml.safe_dump(content, allow_unicode=True, width=10_000)
    lines = text.splitlines()
    parsed = parse_file(text.encode(), "f.yaml")
    for section in content:
        found = getattr(parsed, section)
        if section == METADATA_SERVICE.section:
            assert lines[found.line - 1].startswith(section)
            continue
        for entry in found:
            name = yaml.safe_load(lines[entry.line - 1].strip())
            if isinstance(name, list):  # an item of a list says in its first line what it is called
                name = name[0]["external"]
            assert entry.name in (name if isinstance(name, dict) else [name])
