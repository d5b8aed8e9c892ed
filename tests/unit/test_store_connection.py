# SPDX-License-Identifier: Apache-2.0
"""Connections: addresses, a store that is away or is not ours, TLS, and a cluster that loses a member."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.core.errors import ConfigError, StoreError
from agent.store import remotes
from agent.store.connection import check_store, connect
from agent.store.document import NetworkFields
from agent.store.errors import Cause, parse_refusal
from agent.store.remotes import TlsFiles, parse_remotes
from agent.store.writer import Writer


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["unix:/run/hostplane/store.sock"], ("unix:/run/hostplane/store.sock",)),
        (["tcp:192.0.2.1:6640", "tcp:[2001:db8::1]:6640"], ("tcp:192.0.2.1:6640", "tcp:[2001:db8::1]:6640")),
        (["ssl:a.example:6640, ssl:b.example:6640,"], ("ssl:a.example:6640", "ssl:b.example:6640")),
    ],
)
def test_addresses(given: list[str], parsed: tuple[str, ...]) -> None:
    assert parse_remotes(given) == parsed


@pytest.mark.parametrize("given", [[], [""], ["unix:relative"], ["tcp:host"], ["tcp:host:70000"], ["http://host:1"]])
def test_wrong_addresses(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="store"):
        parse_remotes(given)


def test_a_store_that_is_away_is_one_line_that_says_what_to_look_at(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        connect([f"unix:{tmp_path}/store.sock"], timeout=2)
    assert time.monotonic() - started < 5
    assert str(caught.value) == (
        f"store unix:{tmp_path}/store.sock: cannot connect (No such file or directory; is ovsdb-server running?)"
    )


def test_a_store_that_takes_the_connection_and_is_silent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/store.sock")
        listener.listen()
        with pytest.raises(StoreError, match=r"cannot connect \(Connection timed out"):
            connect([f"unix:{tmp_path}/store.sock"], timeout=0.5)


def test_a_service_that_speaks_something_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/store.sock")
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{tmp_path}/store.sock")
        served, _ = listener.accept()
        client.close()
        served.close()
        listener.close()
        with pytest.raises(StoreError, match="cannot connect"):
            check_store([f"unix:{tmp_path}/store.sock"], timeout=0.5)


@contextmanager
def serving(folder: Path, schema: dict[str, object], name: str = "other") -> Iterator[str]:
    """Serve an empty database with *schema*; give its address."""
    (folder / f"{name}.schema").write_text(json.dumps(schema))
    database, address = folder / f"{name}.db", folder / f"{name}.sock"
    subprocess.run(["ovsdb-tool", "create", str(database), str(folder / f"{name}.schema")], check=True)
    argv = ["ovsdb-server", "--no-chdir", f"--remote=punix:{address}", f"--unixctl={address}.ctl", str(database)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"unix:{address}"
    finally:
        process.terminate()
        process.wait()


def test_a_database_of_another_service_and_of_another_version_are_told_apart(tmp_path: Path) -> None:
    with serving(tmp_path, {"name": "Open_vSwitch", "tables": {}}, "vswitch") as address:
        words = r"it has no database Hostplane \(is this address that of another"
        with pytest.raises(StoreError, match=words):
            connect([address])
    ours = json.loads(remotes.schema_text())
    major = int(ours["version"].split(".")[0])
    with serving(tmp_path, ours | {"version": f"{major + 1}.0.0"}, "next") as address:
        words = rf"its schema has version {major + 1}\.0\.0, this program needs"
        with pytest.raises(StoreError, match=words):
            connect([address])
    with serving(tmp_path, ours | {"version": f"{major}.99.0"}, "newer") as address:
        connect([address]).ovsdb_connection.stop()


@pytest.mark.parametrize(
    ("message", "cause", "table"),
    [
        (
            'OVSDB Error: {"details":"Transaction causes multiple rows in \\"IP_Allocation\\" table to have identical '
            'values (x) for index","error":"constraint violation"}',
            Cause.CLASH,
            "IP_Allocation",
        ),
        ('OVSDB Error: {"details":"cannot delete","error":"referential integrity violation"}', Cause.REFERENCE, None),
        ('OVSDB Error: {"details":"x","error":"duplicate uuid"}', Cause.DUPLICATE_ID, None),
        ('OVSDB Error: {"details":"15 is not in the valid range","error":"constraint violation"}', Cause.OTHER, None),
        ("OVSDB Error: not json", Cause.OTHER, None),
        ("OVSDB Error: []", Cause.OTHER, None),
    ],
)
def test_what_a_server_says(message: str, cause: Cause, table: str | None) -> None:
    refusal = parse_refusal(message)
    assert (refusal.cause, refusal.table) == (cause, table)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, TlsFiles]:
    """A CA and a key and certificate for the server and for a client of it, and for a stranger."""

    def run(*argv: str) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=tmp_path)

    files = {}
    for authority in ("ca", "strange-ca"):
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={authority}", "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "strange-ca")):
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", "2", "-out", f"{name}.pem")  # fmt: skip
        files[name] = TlsFiles(f"{tmp_path}/{name}.key", f"{tmp_path}/{name}.pem", f"{tmp_path}/ca.pem")
    return files


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tls(tmp_path: Path, tls: dict[str, TlsFiles]) -> None:
    database, port = tmp_path / "store.db", free_port()
    (tmp_path / "schema").write_text(remotes.schema_text())
    subprocess.run(["ovsdb-tool", "create", str(database), str(tmp_path / "schema")], check=True)
    server = tls["server"]
    argv = [
        "ovsdb-server",
        "--no-chdir",
        f"--remote=pssl:{port}:127.0.0.1",
        f"--private-key={server.private_key}",
        f"--certificate={server.certificate}",
        f"--ca-cert={server.ca_cert}",
        f"--unixctl={tmp_path}/ctl",
        str(database),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"ssl:127.0.0.1:{port}"
    try:
        with Writer.connect([address], tls["client"]) as writer:
            assert writer.create_network("n", NetworkFields(type="local")).revision == 1
        with pytest.raises(StoreError, match="cannot connect"):
            Writer.connect([address], tls["stranger"], timeout=3)
        with pytest.raises(ConfigError, match="need private_key, certificate and ca_cert"):
            Writer.connect([address])
        with pytest.raises(ConfigError, match=r"ca_cert: .*/none cannot be read"):
            Writer.connect([address], TlsFiles(server.private_key, server.certificate, f"{tmp_path}/none"))
        with pytest.raises(StoreError, match="cannot connect"):
            Writer.connect([address], TlsFiles(server.certificate, server.certificate, server.ca_cert), timeout=3)
    finally:
        process.terminate()
        process.wait()


def test_a_cluster_goes_on_without_one_member(tmp_path: Path) -> None:
    (tmp_path / "schema").write_text(remotes.schema_text())
    raft = [f"tcp:127.0.0.1:{free_port()}" for _ in range(3)]
    addresses = [f"unix:{tmp_path}/{number}.sock" for number in range(3)]
    with ExitStack() as stack:
        members = []
        for number in range(3):
            database = str(tmp_path / f"{number}.db")
            argv = ["ovsdb-tool", "create-cluster", database, str(tmp_path / "schema"), raft[0]]
            if number:
                argv = ["ovsdb-tool", "join-cluster", database, "Hostplane", raft[number], raft[0]]
            subprocess.run(argv, check=True)
            argv = [
                "ovsdb-server",
                "--no-chdir",
                f"--remote=p{addresses[number]}",
                f"--unixctl={tmp_path}/{number}.ctl",
            ]
            member = subprocess.Popen([*argv, database], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            members.append(member)
            stack.callback(member.wait)
            stack.callback(member.kill)
            wait = ["ovsdb-client", "--timeout=20", "wait", addresses[number], "Hostplane", "connected"]
            subprocess.run(wait, check=True)
        with Writer.connect(addresses, timeout=30) as writer:
            writer.create_network("before", NetworkFields(type="vxlan"))
            members[0].kill()  # the leader, and perhaps the member that the writer is connected to
            members[0].wait()
            writer.create_network("after", NetworkFields(type="vxlan"))
            assert writer.revision()[1] == 2
        with Writer.connect(addresses, timeout=30) as writer:
            assert [network.name for network in writer.list_networks()] == ["after", "before"]
