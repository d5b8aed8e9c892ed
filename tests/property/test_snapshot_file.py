# SPDX-License-Identifier: Apache-2.0
"""What is saved is what is loaded, whatever the history, and a torn file loses only its end."""

from __future__ import annotations

import json
import stat
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import model
from agent.core.snapshot_file import SnapshotFile, SnapshotFileError

HOST = model.HostName("host1")
IDS = st.sampled_from(["a", "b", "c"])
# One choice each: what a text is made of is the JSON encoder's business, where it stands is the codec's.
TEXT = st.sampled_from(["", "a", "b", "0", " ", "\n", '"', "\\", "{", "é", "𝄞", "\u2028", "\x00", "null"])

NETWORKS = st.builds(
    model.Network, IDS, TEXT, st.sampled_from(model.NetworkType), st.none() | st.integers(1, 9), st.none() | TEXT,
    st.integers(68, 9000), st.booleans(), TEXT,
)  # fmt: skip
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
SUBNETS = st.lists(
    st.builds(
        model.Subnet, IDS, TEXT, IDS, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT, st.booleans(),
        st.none() | TEXT, st.lists(TEXT, max_size=2).map(tuple), PAIRS, TEXT,
    ),
    max_size=2,
).map(tuple)  # fmt: skip
PORTS = st.builds(
    model.Port, IDS, TEXT, IDS, TEXT, st.lists(st.builds(model.FixedIp, TEXT, IDS), max_size=2).map(tuple),
    st.booleans(), st.booleans(), st.lists(st.builds(model.AddressPair, TEXT, TEXT), max_size=2).map(tuple), TEXT,
    st.booleans(), st.lists(IDS, max_size=2).map(tuple), TEXT, TEXT, TEXT, PAIRS, PAIRS,
)  # fmt: skip
ENDPOINTS = st.dictionaries(
    IDS, st.builds(model.Endpoint, IDS, IDS, TEXT, st.lists(TEXT, max_size=2).map(tuple), TEXT), max_size=3
)
HOSTS = st.builds(
    model.Host, IDS, st.none() | TEXT, st.frozensets(st.sampled_from(["vxlan", "geneve"]).map(model.NetworkType)),
    st.dictionaries(TEXT, TEXT, max_size=2), st.booleans(),
)  # fmt: skip
RULES = st.builds(
    model.SecurityGroupRule, IDS, st.sampled_from(model.Direction), st.sampled_from([4, 6]),
    *[st.none() | st.integers(0, 9)] * 3, st.none() | TEXT, st.none() | IDS,
)  # fmt: skip
GROUPS = st.builds(
    model.SecurityGroup, IDS, TEXT, st.booleans(),
    st.dictionaries(IDS, RULES, max_size=3).map(lambda rules: tuple(replace(rules[k], id=k) for k in sorted(rules))),
    st.booleans(), st.booleans(), st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
CHUNKS = st.dictionaries(
    st.sampled_from(["", "0", "10"]),
    st.builds(model.AddressChunk, IDS, TEXT, st.frozensets(TEXT, max_size=3)),
    max_size=3,
)


OWNERS = st.builds(model.AddressOwner, IDS, st.sampled_from(model.OwnerKind), TEXT)
METADATA_SERVICES = st.builds(model.MetadataService, TEXT, TEXT, TEXT, TEXT, TEXT, st.booleans(), st.floats(0.5, 99.0))


INTERFACES = st.builds(
    model.RouterInterface, IDS, IDS, TEXT, st.lists(st.builds(model.FixedIp, TEXT, IDS), max_size=2).map(tuple)
)
ROUTERS = st.builds(
    model.Router, IDS, TEXT, TEXT, *[st.booleans()] * 4, st.lists(IDS, max_size=2).map(tuple), st.none() | INTERFACES,
    st.lists(INTERFACES, max_size=2).map(tuple), PAIRS,
)  # fmt: skip
FLOATING_IPS = st.dictionaries(IDS, st.builds(model.FloatingIp, IDS, IDS, TEXT, TEXT, IDS, TEXT, IDS, TEXT), max_size=3)
PORT_FORWARDINGS = st.dictionaries(
    IDS,
    st.builds(model.PortForwarding, IDS, IDS, st.integers(0, 9), TEXT, *[st.integers(1, 9)] * 2, IDS, TEXT,
              *[st.integers(1, 9)] * 2),
    max_size=3,
)  # fmt: skip


def by_id(values):
    return st.dictionaries(IDS, values, max_size=3)


FIELDS = {
    "generation": TEXT, "revision": st.integers(0, 9),
    "networks": by_id(NETWORKS), "subnets": by_id(SUBNETS), "ports": by_id(PORTS), "endpoints": by_id(ENDPOINTS),
    "hosts": by_id(HOSTS), "security_groups": by_id(GROUPS), "address_chunks": by_id(CHUNKS),
    "owners": by_id(OWNERS), "metadata_service": st.none() | METADATA_SERVICES, "routers": by_id(ROUTERS),
    "floating_ips": by_id(FLOATING_IPS), "port_forwardings": by_id(PORT_FORWARDINGS),
}  # fmt: skip
SOME_FIELDS = st.sets(st.sampled_from(sorted(FIELDS)), max_size=4)


@st.composite
def histories(draw, min_size):
    """Snapshots of which each has a few fields of its own and shares the others with the one before."""
    snapshots = [model.HostSnapshot(HOST, in_sync=True)]
    for _ in range(draw(st.integers(min_size, 4))):
        changes = {name: draw(FIELDS[name]) for name in sorted(draw(SOME_FIELDS))}
        snapshots.append(replace(snapshots[-1], **changes))
    return snapshots[1:]


@given(histories(1))
def test_the_last_saved_snapshot_is_loaded(history):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        file = SnapshotFile(path, HOST)
        for snapshot in history:
            file.save(snapshot)
        assert SnapshotFile(path, HOST).load() == replace(history[-1], stale=True)


@given(histories(2), st.data())
def test_a_torn_file_gives_an_earlier_snapshot_and_never_a_wrong_one(history, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        file = SnapshotFile(path, HOST)
        for snapshot in history:
            file.save(snapshot)
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        allowed = [replace(snapshot, stale=True) for snapshot in history] + [None]
        try:
            assert SnapshotFile(path, HOST).load() in allowed
        except SnapshotFileError:
            assert b"\n" not in path.read_bytes()


def test_a_change_costs_a_line_and_not_the_file(tmp_path):
    ids = [model.PortId(f"p{i}") for i in range(1000)]
    ports = {port: model.Port(port, port, model.NetworkId("n"), "fa:16:3e:00:00:01", ()) for port in ids}
    first = model.HostSnapshot(HOST, in_sync=True, ports=ports)
    file = SnapshotFile(tmp_path / "snapshot", HOST)
    file.save(first)
    size = (tmp_path / "snapshot").stat().st_size
    file.save(replace(first, revision=1, ports={**ports, ids[7]: replace(ports[ids[7]], name="other")}))
    assert (tmp_path / "snapshot").stat().st_size - size < 600


def test_a_rule_or_a_member_more_costs_a_line_and_not_the_group(tmp_path):
    group, peer = model.SecurityGroupId("g"), model.OwnerId("o")
    rules = tuple(model.SecurityGroupRule(f"r{i:04}", model.Direction.INGRESS, 4, 6, i, i) for i in range(1000))
    chunks = {f"{i:02}": model.AddressChunk(peer, f"{i:02}", frozenset({f"10.0.{i}.1"})) for i in range(90)}
    first = model.HostSnapshot(
        HOST,
        in_sync=True,
        security_groups={group: model.SecurityGroup(group, "web", rules=rules)},
        address_chunks={peer: chunks},
    )
    path = tmp_path / "snapshot"
    file = SnapshotFile(path, HOST)
    file.save(first)
    size = path.stat().st_size
    one_more = model.SecurityGroupRule("r0500a", model.Direction.INGRESS, 6)
    web = model.SecurityGroup(group, "web", rules=(*rules[:501], one_more, *rules[501:]))
    second = replace(first, revision=1, security_groups={group: web})
    file.save(second)
    assert path.stat().st_size - size < 500
    size = path.stat().st_size
    member = model.AddressChunk(peer, "07", frozenset({"10.0.7.1", "10.0.7.2"}))
    third = replace(second, revision=2, address_chunks={peer: {**chunks, "07": member}})
    file.save(third)
    assert path.stat().st_size - size < 300
    assert SnapshotFile(path, HOST).load() == replace(third, stale=True)


def test_one_floating_ip_more_costs_a_line_and_not_those_of_its_router(tmp_path):
    router = model.RouterId("r")
    ids = [model.FloatingIpId(f"f{number:04}") for number in range(1000)]
    floating = {
        key: model.FloatingIp(
            key, router, f"203.0.{number >> 8}.{number & 255}", "fa:16:3e:00:00:01", model.PortId("p"), "10.0.0.4",
            model.NetworkId("n"), HOST,
        )
        for number, key in enumerate(ids)
    }  # fmt: skip
    first = model.HostSnapshot(HOST, in_sync=True, floating_ips={router: floating})
    path = tmp_path / "snapshot"
    file = SnapshotFile(path, HOST)
    file.save(first)
    size = path.stat().st_size
    less = dict(floating)
    moved = replace(less.pop(ids[7]), id=model.FloatingIpId("f9"), host=model.HostName("host2"))
    second = replace(first, revision=1, floating_ips={router: {**less, moved.id: moved}})
    file.save(second)
    assert path.stat().st_size - size < 400
    assert SnapshotFile(path, HOST).load() == replace(second, stale=True)


LATER = {
    "ports": ("filtered", "security_groups", "device_id", "project", "hostname", "dhcp_options", "metadata"),
    "subnets": ("server_address", "dns_servers", "host_routes", "address_scope"),
    "hosts": ("drain",),
}
LATER_NOUNS = ("routers", "floating_ips", "port_forwardings")


def test_a_file_of_an_earlier_version_is_loaded(tmp_path):
    port = model.Port(model.PortId("p"), "p", model.NetworkId("n"), "fa:16:3e:00:00:01", ())
    subnet = model.Subnet(model.SubnetId("s"), "s", port.network, "10.0.0.0/24", None)
    path = tmp_path / "snapshot"
    hosts = {HOST: model.Host(HOST)}
    saved = model.HostSnapshot(
        HOST, in_sync=True, ports={port.id: port}, subnets={subnet.network: (subnet,)}, hosts=hosts
    )
    SnapshotFile(path, HOST).save(saved)
    header, block = (json.loads(line[9:]) for line in path.read_text().splitlines())
    for found, later in (
        (block["put"]["ports"]["p"], LATER["ports"]),
        (block["put"]["subnets"]["n"][0], LATER["subnets"]),
        (block["put"]["hosts"]["host1"], LATER["hosts"]),
    ):
        for field in later:
            del found[field]
    assert not block["put"].keys() & set(LATER_NOUNS)  # an older file has none of them
    bodies = (json.dumps(value) for value in (header, block))
    path.write_text("".join(f"{zlib.crc32(body.encode()):08x} {body}\n" for body in bodies))
    assert SnapshotFile(path, HOST).load() == replace(saved, stale=True)


def test_only_its_owner_can_read_what_is_saved_even_where_others_could_before(tmp_path):
    path = tmp_path / "snapshot"
    for name in ("snapshot", "snapshot.new"):
        (tmp_path / name).write_text("of an earlier version")
        (tmp_path / name).chmod(0o644)
    SnapshotFile(path, HOST).save(model.HostSnapshot(HOST, in_sync=True))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("header", "word"), [("host2", "host2"), ("version", "version")])
def test_a_file_that_is_not_ours_is_refused_by_name(tmp_path, header, word):
    path = tmp_path / "snapshot"
    SnapshotFile(path, model.HostName("host2")).save(model.HostSnapshot(model.HostName("host2"), in_sync=True))
    if header == "version":
        path.write_text("00000000 {}\n")
        word = "damaged"
    with pytest.raises(SnapshotFileError, match=word):
        SnapshotFile(path, HOST).load()
