# SPDX-License-Identifier: Apache-2.0
"""The status socket as its clients see it: real sockets, a daemon that can be asked."""

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
from dataclasses import replace

import pytest

from agent.config import StatusConfig
from agent.core.errors import Actor, ApplyError, ConfigError, InputError, Problem
from agent.core.model import NetworkId, PortId
from agent.core.plan import ItemRef
from agent.core.report import HoldState, ItemState, ObjectStatus, Operations, PassReport, PortState
from agent.status import client, httpd, server
from tests.fakes.status_source import FakeSource

BLUE = NetworkId("11111111-0000-0000-0000-000000000001")
VM1 = PortState(PortId("p1"), "vm1", BLUE, up=True, reason="", since=900.0, interface="tap1", ofport=5)
VM2 = PortState(PortId("p2"), "vm2", BLUE, up=False, reason="no interface", since=950.0)


@pytest.fixture
def source():
    return FakeSource()


@pytest.fixture
def path(source, tmp_path):
    """The path of a served status socket."""
    config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpss-no-such-group", metrics_port=0)
    served = server.StatusServer(config, source, scrape=lambda accept: ("text/plain", b"up 1\n"), now=lambda: 2000.0)
    served.start()
    yield config.socket
    served.stop()


@pytest.fixture(autouse=True)
def _keep_log_level():
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


def converged(source):
    source.current = replace(
        source.current,
        store_connected=True,
        store_in_sync=True,
        switch_connected=True,
        desired_revision=7,
        applied_revision=7,
        applied_at=1990.0,
        store_last_sync_at=1999.0,
        ports={VM1.id: VM1, VM2.id: VM2},
        network_names={BLUE: "blue"},
        objects={"networks": 1, "endpoints": 2},
        items={"flows": 30},
        last_pass=PassReport(
            revision=7,
            started_at=1989.0,
            seconds=0.5,
            reasons=("store",),
            operations={"flows": Operations(created=30, seconds=0.25)},
            unfinished={
                ItemRef("flows", "table=0,priority=1"): ObjectStatus(ItemState.ERROR, "refused", 1989.0, 3, 2001.0)
            },
        ),
        problems=(Problem("port:p9", "mac_address", "is no unicast address", Actor.CLOUD),),
    )


def test_the_summary_tells_revisions_counts_and_times(source, path):
    converged(source)

    answer = client.get(path, "/status")

    assert (answer["desired_revision"], answer["applied_revision"], answer["age_seconds"]) == (7, 7, 0.0)
    assert answer["host"] == "host1"
    assert answer["uptime_seconds"] == 1000.0
    assert answer["ports"] == {"total": 2, "up": 1, "down": 1}
    assert answer["items"] == {"flows": {"desired": 30, "done": 29, "pending": 0, "error": 1, "blocked": 0}}
    assert answer["last_pass"]["operations"]["flows"]["created"] == 30
    assert answer["ready"] == {"ok": True, "text": "revision 7 is in place"}
    assert answer["problems"] == 1


@pytest.mark.parametrize(
    "page", ["/status", "/ports", "/networks", "/flows", "/problems", "/plan", "/live", "/ready", "/nothing"]
)
def test_every_answer_carries_revisions_and_age(source, path, page):
    source.current = replace(source.current, desired_revision=9, applied_revision=8, store_last_sync_at=1990.0)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(path))
        raw.sendall(f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = json.loads(read_all(raw).partition(b"\r\n\r\n")[2])
    assert (answer["desired_revision"], answer["applied_revision"], answer["age_seconds"]) == (9, 8, 10.0)


def test_ports_are_listed_by_name_and_found_by_name_or_id(source, path):
    converged(source)
    assert [port["name"] for port in client.get(path, "/ports")["ports"]] == ["vm1", "vm2"]
    for query in ("vm2", "p2"):
        (port,) = client.get(path, "/ports", query={"name": query})["ports"]
        assert (port["up"], port["reason"], port["network_name"]) == (False, "no interface", "blue")
    assert client.get(path, "/ports?name=vm3")["ports"] == []


def test_networks_count_the_ports_here(source, path):
    converged(source)
    assert client.get(path, "/networks")["networks"] == [{"id": BLUE, "name": "blue", "ports": 2, "ports_up": 1}]


def test_problems_say_who_must_act_and_what_is_tried_again(source, path):
    converged(source)
    answer = client.get(path, "/problems")
    assert answer["problems"][0]["actor"] == "cloud"
    assert answer["unfinished"] == [
        {
            "driver": "flows",
            "key": "table=0,priority=1",
            "state": "error",
            "message": "refused",
            "actor": "nobody",
            "since": 1989.0,
            "attempts": 3,
            "next_try_at": 2001.0,
            "waits_for": None,
        }
    ]


def test_flows_are_counted_and_listed_only_on_request(source, path):
    source.known_flows = {"table=60,priority=2,ip": "output:1", "table=60,priority=1": "", "table=0,priority=1": "drop"}
    answer = client.get(path, "/flows")
    assert answer["total"] == 3
    assert list(answer["tables"].items()) == [("classify", 1), ("local", 2)]
    assert "flows" not in answer
    for table in ("local", "60"):
        listed = client.get(path, "/flows", query={"table": table, "limit": "1"})
        assert listed["flows"] == [{"table": "local", "match": "table=60,priority=1", "actions": ""}]
        assert listed["truncated"] is True
    assert client.get(path, "/flows", query={"table": ""})["flows"][0]["table"] == "classify"
    with pytest.raises(InputError, match="table: 'loacl' is none of classify, "):
        client.get(path, "/flows?table=loacl")
    with pytest.raises(InputError, match="limit: '-1' is not a number of flows"):
        client.get(path, "/flows?limit=-1")


def test_a_plan_that_comes_too_late_is_to_be_asked_for_again(source, path):
    source.answer_plan = {"flows": {"creates": 1}}
    assert client.get(path, "/plan")["flows"] == {"creates": 1}
    source.answer_plan = TimeoutError()
    with pytest.raises(client.AgentBusyError, match=r"no time for a plan within 30 s"):
        client.get(path, "/plan")
    source.answer_plan = ApplyError("br-int.mgmt: connection refused")
    with pytest.raises(client.AgentBusyError, match=r"br-int\.mgmt: connection refused"):
        client.get(path, "/plan")


def test_live_and_ready_are_different_answers(source, path):
    assert client.get(path, "/live")["live"] is True
    answer = client.get(path, "/ready")
    assert answer["ready"] is False
    assert answer["text"].startswith("switch: ")
    source.is_live = False
    converged(source)
    assert client.get(path, "/live")["live"] is False
    assert client.get(path, "/ready")["ready"] is True


@pytest.mark.parametrize(
    ("changes", "component"),
    [
        ({"switch_connected": False}, "switch"),
        ({"applied_at": None, "store_connected": False}, "store"),
        ({"applied_at": None, "store_in_sync": False}, "store"),
        ({"applied_at": None}, "pass"),
        ({"hold": HoldState(1.0, 8, 20, 15, "15 of 20 ports would go")}, "hold"),
    ],
)
def test_not_ready_names_the_component_that_is_not(source, path, changes, component):
    converged(source)
    source.current = replace(source.current, **changes)
    answer = client.get(path, "/ready")
    assert answer["ready"] is False
    assert answer["text"].partition(":")[0] == component


def test_ready_stays_while_the_store_is_away(source, path):
    converged(source)
    source.current = replace(source.current, store_connected=False, store_in_sync=False, store_address="tcp:a:1")
    answer = client.get(path, "/ready")
    assert answer["ready"] is True
    assert "store: not connected to tcp:a:1" in answer["text"]
    assert answer["age_seconds"] == 1.0


def test_a_hold_is_released_only_if_there_is_one(source, path):
    with pytest.raises(InputError, match="nothing is held"):
        client.post(path, "/hold/release")
    assert source.asked == []
    source.current = replace(source.current, hold=HoldState(1.0, 8, 20, 15, "15 of 20 ports would go"))
    assert client.post(path, "/hold/release")["released"]["revision"] == 8
    assert source.asked == ["release"]


def test_a_resync_is_requested(source, path):
    client.post(path, "/resync")
    assert source.asked == ["resync"]


def test_the_log_level_changes_at_run_time(source, path):
    assert client.post(path, "/log-level", {"level": "debug"})["log_level"] == "debug"
    assert logging.getLogger().level == logging.DEBUG
    client.post(path, "/log-level?level=error")
    assert logging.getLogger().level == logging.ERROR
    with pytest.raises(InputError, match="'loud' is not one of debug, info"):
        client.post(path, "/log-level", {"level": "loud"})
    for body in ({}, {"level": 3}):
        with pytest.raises(InputError, match="send"):
            client.post(path, "/log-level", body)


def test_metrics_are_there_too(path):
    assert client.get_text(path, "/metrics") == "up 1\n"


# Errors of clients: an answer in JSON, nothing in the log, nobody else disturbed.


def exchange(path, data):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
        head, _, body = read_all(raw).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else None


def read_all(raw):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := raw.recv(65536):
            data += chunk
    return data


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET status HTTP/1.1\r\n\r\n", 400),
        (b"GET /status SPDY/9\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /ports?" + b"&".join([b"a=b"] * 100) + b" HTTP/1.1\r\n\r\n", 400),
        (b"\xff\xfe /status HTTP/1.1\r\n\r\n", 405),
        (b"DELETE /status HTTP/1.1\r\n\r\n", 405),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"GET //[ HTTP/1.1\r\n\r\n", 404),
        (b"POST /status HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /resync HTTP/1.1\r\n\r\n", 405),
        (b"GET /status HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431),
        (b"POST /resync HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /resync HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /resync HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /resync HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /log-level HTTP/1.1\r\nContent-Length: 9000\r\n\r\n" + b"[" * 9000, 400),
        (b"POST /log-level HTTP/1.1\r\nContent-Length: 2\r\n\r\n{x", 400),
    ],
)
def test_a_bad_request_gets_an_error_in_json_and_leaves_no_trace(path, caplog, request_bytes, status):
    caplog.set_level(logging.INFO)
    got, answer = exchange(path, request_bytes)
    assert got == status
    assert answer["error"]
    assert answer["actor"] == "operator"
    assert not caplog.records
    assert client.get(path, "/live")["live"] is True


def test_a_body_that_waits_for_leave_gets_it(source, path):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(path))
        raw.sendall(b"POST /log-level HTTP/1.1\r\nContent-Length: 17\r\nExpect: 100-continue\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(b'{"level":"debug"}')
        assert read_all(raw).startswith(b"HTTP/1.1 200")
    assert source.level == "debug"


def test_head_has_no_body(path):
    got, answer = exchange(path, b"HEAD /status HTTP/1.1\r\n\r\n")
    assert (got, answer) == (200, None)


def test_a_slow_client_is_told_and_dropped(path, monkeypatch):
    monkeypatch.setattr(httpd, "REQUEST_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(10)
        slow.connect(str(path))
        slow.sendall(b"GET /sta")
        begun = time.monotonic()
        assert b" 408 " in read_all(slow)
        assert time.monotonic() - begun < 5


def test_clients_that_say_nothing_cannot_lock_others_out_for_long(path, monkeypatch):
    monkeypatch.setattr(httpd, "REQUEST_SECONDS", 0.5)
    with contextlib.ExitStack() as stack:
        for _ in range(server.STATUS_CONNECTIONS):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(path))
        with pytest.raises(client.AgentBusyError, match="too many connections"):
            client.get(path, "/live")
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.get(path, "/live")["live"] is True
                break
            except client.AgentBusyError:
                assert time.monotonic() < deadline


def test_a_slow_plan_keeps_nobody_waiting(source, path):
    begun, go_on = threading.Event(), threading.Event()

    def slow_plan(timeout):
        begun.set()
        go_on.wait(20)
        return {"done": True}

    source.plan = slow_plan
    answers = []
    asker = threading.Thread(target=lambda: answers.append(client.get(path, "/plan", timeout=30)))
    asker.start()
    assert begun.wait(10)
    assert client.get(path, "/live")["live"] is True
    with pytest.raises(client.AgentBusyError, match="for another client"):
        client.get(path, "/plan")
    go_on.set()
    asker.join(10)
    assert answers[0]["done"] is True


def test_a_bug_is_logged_and_answered_without_its_traceback(source, path, caplog):
    source.flow_counts = lambda: 1 // 0
    got, answer = exchange(path, b"GET /flows HTTP/1.1\r\n\r\n")
    assert got == 500
    assert "ZeroDivision" not in json.dumps(answer)
    assert "ZeroDivisionError" in caplog.text


# The socket's file.


def test_only_the_group_may_use_the_socket(path):
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_a_socket_that_a_dead_daemon_left_is_replaced(source, tmp_path):
    file = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(file))
    served = server.StatusServer(
        StatusConfig(socket=file, socket_group="hpss-none", metrics_port=0), source, scrape=lambda _: ("", b"")
    )
    served.start()
    assert client.get(file, "/live")["live"] is True
    served.stop()
    assert not file.exists()


def test_a_second_daemon_is_refused_and_the_first_goes_on(source, path):
    with pytest.raises(ConfigError, match=r"another hostplane-agent answers at .*agent\.sock; stop it first"):
        server.open_status_socket(path, "hpss-none")
    assert client.get(path, "/live")["live"] is True


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    file = tmp_path / "agent.sock"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="is there and is no socket"):
        server.open_status_socket(file, "hpss-none")
    assert file.read_text() == "precious"


def test_a_directory_that_is_missing_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"\[status\] socket: .*absent/agent.sock: No such file"):
        server.open_status_socket(tmp_path / "absent" / "agent.sock", "hpss-none")


def test_stopping_leaves_the_file_of_a_newer_daemon(source, tmp_path):
    config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpss-none", metrics_port=0)
    old = server.StatusServer(config, source, scrape=lambda _: ("", b""))
    old.start()
    config.socket.unlink()
    new = server.open_status_socket(config.socket, "hpss-none")
    old.stop()
    assert config.socket.exists()
    new.close()


# The metrics port.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tcp(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(request)
        return read_all(raw)


def test_the_metrics_port_shows_metrics_and_nothing_else(source, tmp_path):
    port = free_port()
    config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpss-none", metrics_port=port)
    served = server.StatusServer(config, source, scrape=lambda accept: ("text/plain", accept.encode()))
    assert served.start() == ()
    try:
        answer = tcp(port, b"GET /metrics HTTP/1.1\r\nAccept: text/plain;version=1.0.0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\ntext/plain;version=1.0.0")
        for request in (b"GET /status HTTP/1.1\r\n\r\n", b"POST /resync HTTP/1.1\r\nContent-Length: 0\r\n\r\n"):
            assert b" 404 " in tcp(port, request)
        assert source.asked == []
    finally:
        served.stop()


def test_a_metrics_port_that_is_taken_is_a_problem_but_not_the_end(source, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = StatusConfig(socket=tmp_path / "agent.sock", socket_group="hpss-none", metrics_port=port)
        served = server.StatusServer(config, source, scrape=lambda _: ("", b""))
        (problem,) = served.start()
        assert (problem.field, problem.actor) == ("metrics_port", Actor.OPERATOR)
        assert f"127.0.0.1 port {port}" in problem.text
        assert client.get(config.socket, "/live")["live"] is True
        served.stop()


# The client's words.


def test_no_socket_asks_whether_the_daemon_runs(tmp_path):
    file = tmp_path / "agent.sock"
    with pytest.raises(client.AgentUnavailableError) as caught:
        client.get(file, "/status")
    assert str(caught.value) == f"agent socket {file}: no such file (is hostplane-agent running?)"


def test_a_socket_without_a_daemon_says_where_to_look(tmp_path):
    file = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(file))
    with pytest.raises(client.AgentUnavailableError, match="nobody answers"):
        client.get(file, "/status")


def test_something_else_behind_the_socket_is_noticed(tmp_path):
    file = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(file))
        other.listen(2)

        def answer(data):
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(data)

        for data, message in (
            (b"220 mail\r\n", "agent socket .*220 mail"),
            (b"HTTP/1.0 200 OK\r\n\r\n<html>", "not JSON"),
        ):
            thread = threading.Thread(target=answer, args=(data,))
            thread.start()
            with pytest.raises(client.AgentUnavailableError, match=message):
                client.get(file, "/status")
            thread.join(10)


def test_a_daemon_that_hangs_is_called_busy(tmp_path):
    file = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(file))
        hung.listen(1)
        with pytest.raises(client.AgentBusyError, match=r"no answer within 0\.2 s"):
            client.get(file, "/status", timeout=0.2)
