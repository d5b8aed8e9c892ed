# SPDX-License-Identifier: Apache-2.0
"""A real responder as a process: what it has given up, whom it listens to, what it survives."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.service_identity import DHCP_SOCKET, METADATA_SOCKET4
from agent.metadata.data import Limits
from agent.responder import protocol
from agent.responder_client import Request
from tests.ovs.responder_lab import (
    ROOT,
    discover,
    lab,
    port_data,
    put_dhcp,
    put_metadata,
    put_service,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("process")) as found:
        yield found


@pytest.fixture(scope="module")
def running(place):
    return place.start(put_dhcp(1), put_metadata(1))


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def descriptors(process):
    """Return what the process holds open, in any order that stays the same."""
    return sorted(str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir())


def content(request):
    """Return what a put says."""
    return request.frame["data"]


def run(*arguments, pass_fds=(), **options):
    """Run a responder that is expected not to start; return its status and what it said."""
    argv = [sys.executable, "-m", "agent.responder", *map(str, arguments)]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False, pass_fds=pass_fds, **options
    )
    return done.returncode, done.stderr.strip()


def test_it_has_no_privilege_and_can_get_none(running):
    found = status(running.pid)

    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Groups"].strip(), found["Threads"]) == ("1", "", "1")
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"65534"}
    assert Path(f"/proc/{running.pid}/mem").owner() == "root"  # not dumpable: nobody of its user looks into it
    limits = Path(f"/proc/{running.pid}/limits").read_text()
    assert "Max address space         536870912" in limits
    assert "Max core file size        0 " in limits


def test_it_holds_what_it_was_given_and_nothing_else(place, running):
    kinds = descriptors(running)
    links = [kind.partition(":")[0] for kind in kinds]
    # Three sockets to read, one to listen on, the test's connection, a pair for signals.
    assert links.count("socket") == 7
    state = place.folder / "state"
    others = {kind for kind in kinds if kind.startswith("/")}
    assert others == {"/dev/null", str(running.log), str(state), str(state / "responder.data")}


def test_it_is_small_and_stays_so_with_a_thousand_ports(place, running):
    assert running.memory() < 40_000
    assert running.tell(*(put_dhcp(number) for number in range(1, 1001))) == [None] * 1000
    assert running.memory() < 50_000
    deletes = [Request({"type": "delete", "key": f"dhcp port-{number}"}) for number in range(2, 1001)]
    assert running.tell(*deletes) == [None] * 999


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "sockets to listen on were given, not one"),
        (("--listen-fd", "1"), "descriptor 1 cannot be listened on"),
        (("--user", "nobody-at-all"), "user nobody-at-all does not exist"),
        (("--user", "root"), "user root is root"),
        (("--user", ""), "does not exist"),
    ],
)
def test_what_it_cannot_start_with_it_says_and_ends(tmp_path, arguments, says):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    given = ("--listen-fd", listener.fileno()) if "--user" in arguments else ()
    with listener:
        code, said = run("--state-dir", tmp_path / "state", *given, *arguments, pass_fds=(listener.fileno(),))
    assert code == 2
    assert says in said
    assert said.count("\n") == 0


def test_as_root_it_does_not_run(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        number = listener.fileno()
        code, said = run("--state-dir", tmp_path / "state", "--listen-fd", number, pass_fds=(number,))
    assert (code, said) == (2, "hostplane-responder: the responder does not run as root: give it --user")


def test_it_needs_no_file_that_its_user_cannot_read(tmp_path):
    """Modules may lie in root's home: everything is imported before privileges are dropped."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copytree(ROOT / "agent", hidden / "agent", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    with lab(tmp_path) as own:
        process = own.start(put_service(), put_dhcp(3), put_metadata(3), root=hidden)
        assert own.ask(discover(3), 3) is not None
        assert own.get(3) == (200, b"of port-3")
        assert own.get(3, "/latest/meta-data/")[0] == 200
        assert status(process.pid)["Uid"].split()[0] == "65534"
        process.drain()
        assert process.wait() == 0
        log = process.log.read_text()
    assert "Traceback" not in log
    assert "ermission" not in log


def test_only_root_speaks_to_it(running):
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "sys.stdout.write(repr(s.recv(1)))\n"
    )
    running.path.chmod(0o777)
    folders = [folder for folder in running.path.parents if folder.stat().st_mode & 0o001 == 0]
    for folder in folders:
        folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", script, str(running.path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        user="nobody",
        group="nogroup",
        cwd="/",
    )
    for folder in folders:
        folder.chmod(0o700)
    assert done.stdout in ("b''", "")  # an end, or a reset
    assert "PermissionError" not in done.stderr
    assert "wanted to speak as an agent: refused" in running.log.read_text()


def test_bad_data_is_refused_and_what_was_known_stays(place, running):
    def put(key, data, digest="bad"):
        return Request({"type": "put", "key": key, "digest": digest, "data": data})

    before = running.client.digests()
    errors = running.tell(
        put("dhcp port-1", {}),
        put("dhcp port-1", {"identity": "02:48", "port": {}}),
        put("dhcp port-1", {"identity": "02:48:50:01:00:01", "port": {"port": "port-1"}}),
        put_dhcp(1, replace(port_data(1), server_mac="x"), "bad"),
        put("metadata port-1", {"port": 5}),
        put("metadata port-1", {**content(put_metadata(1)), "aliases": [["100.64.0.999", "10.0.0.1"]]}),
        put("service", {"nova": {"url": "ftp://nova"}}),
        put("service", {"nova": {"url": "https://nova", "ca": "no certificate"}}),
        put("other port-1", {}),
        put("dhcp ", {}),
        Request({"type": "put", "key": 5, "digest": "1", "data": {}}),
        Request({"type": "socket", "key": DHCP_SOCKET, "kind": "frames", "digest": "1"}),
        Request({"type": "sing"}),
    )

    assert all(errors)
    assert errors[11] == f"{DHCP_SOCKET}: 0 descriptors came, not one"
    assert running.client.digests() == before
    assert place.ask(discover(1), 1) is not None
    assert place.get(1) == (200, b"of port-1")


def test_sockets_that_are_not_what_they_are_said_to_be_are_refused_and_closed(running):
    before, held = running.client.digests(), descriptors(running)
    with socket.socket() as tcp, Path("/dev/null").open() as file:
        tcp.bind(("127.0.0.1", 0))
        given = [
            ({"key": DHCP_SOCKET, "kind": "frames"}, tcp.fileno()),
            ({"key": METADATA_SOCKET4, "kind": "metadata"}, tcp.fileno()),  # does not listen
            ({"key": METADATA_SOCKET4, "kind": "metadata"}, file.fileno()),
            ({"key": METADATA_SOCKET4, "kind": "songs"}, tcp.fileno()),
            ({"key": "dhcp port-1", "kind": "metadata"}, tcp.fileno()),
        ]
        errors = running.tell(*(Request({"type": "socket", "digest": "1", **what}, number) for what, number in given))
        assert all(errors)
        assert running.tell(Request({"type": "digests"}, tcp.fileno())) == [None]  # a descriptor that nobody wants
    assert running.client.digests() == before
    assert descriptors(running) == held


def test_an_agent_that_talks_nonsense_is_cut_off_and_others_are_not(running):
    for octets in (b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\1{", protocol.encode({"type": "put"})[:9]):
        with socket.socket(socket.AF_UNIX) as wrong:
            wrong.connect(str(running.path))
            wrong.settimeout(5)
            wrong.sendall(octets)
            wrong.shutdown(socket.SHUT_WR)
            assert wrong.recv(1) == b""
    assert running.tell(put_service()) == [None]


def test_with_an_agent_of_another_major_version_it_only_takes_leave(running):
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(running.path))
        other.settimeout(5)
        decoder = protocol.Decoder()

        def say(frame):
            other.sendall(protocol.encode(frame))
            while True:
                data, numbers, _, _ = socket.recv_fds(other, 65536, 16)
                for found, _own in decoder.feed(data, numbers):
                    for number in numbers:
                        os.close(number)
                    return found

        assert "say hello first" in say({"type": "digests", "seq": 1})["error"]
        assert say({"type": "hello", "protocol": [99, 0]})["protocol"] == [1, 0]
        assert "error" in say({"type": "put", "seq": 2, "key": "service", "digest": "1", "data": {}})
        assert sorted(say({"type": "sockets", "seq": 3})["keys"]) == sorted(
            key for key in running.client.digests() if key.startswith("socket ")
        )


def test_numbers_that_were_given_to_another_port_are_its_own_from_then_on(place, running):
    """After a reboot numbers are given anew, while the file still says what they were."""
    moved = put_dhcp(1)
    other = Request({**moved.frame, "key": "dhcp port-7", "data": {**content(moved), "port": None}})
    assert running.tell(other)[0] is not None
    data = {**content(put_dhcp(7)), "identity": content(moved)["identity"]}
    assert running.tell(Request({**moved.frame, "key": "dhcp port-7", "data": data})) == [None]
    assert "dhcp port-1" not in running.client.digests()
    aliases = content(put_metadata(1))["aliases"]
    data = {**content(put_metadata(7)), "aliases": aliases}
    assert running.tell(Request({"type": "put", "key": "metadata port-7", "digest": "1", "data": data})) == [None]
    assert "metadata port-1" not in running.client.digests()
    assert place.get(1) == (200, b"of port-7")
    assert running.tell(put_dhcp(1), put_metadata(1)) == [None, None]
    assert place.get(1) == (200, b"of port-1")


def test_limits_hold_for_each_family_of_a_port_by_itself(place, running):
    assert running.tell(put_service(limits=Limits(rate=0.01, burst=3))) == [None]
    running.mark()
    assert [place.get(1)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert place.get(1, version=6)[0] == 200
    assert running.count("rate_limited", "what=metadata", "family=4") >= 2
    assert running.count("rate_limited", "what=metadata", "family=6") == 0
    assert running.tell(put_service()) == [None]
