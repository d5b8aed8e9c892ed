# SPDX-License-Identifier: Apache-2.0
"""What stands in the log: one line a record, one record a change of state."""

import io
import logging
import os
import re
from dataclasses import replace

import pytest

from agent import logs
from agent.core.errors import InputError
from agent.core.model import NetworkId, PortId, Router, RouterId
from agent.core.plan import ItemRef
from agent.core.report import ItemState, ObjectStatus, PortState, RouterState

LOG = logging.getLogger("agent.core.example")


@pytest.fixture(autouse=True)
def _keep_root_logger():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def written(level="info"):
    stream = io.StringIO()
    logs.setup(level, stream, {})
    return stream


def test_a_line_has_time_level_and_origin():
    stream = written()
    LOG.warning("port %s is down", "p1")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING agent\.core\.example: port p1 is down\n", stream.getvalue()
    )


def test_under_systemd_a_line_has_its_priority_and_no_time(tmp_path):
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        logs.setup("debug", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        LOG.debug("a")
        LOG.info("b")
        LOG.warning("c")
        LOG.error("d")
        LOG.critical("e")
        stream.seek(0)
        assert [line.rstrip() for line in stream] == [
            f"<{priority}>agent.core.example: {text}" for priority, text in zip("76432", "abcde", strict=True)
        ]


def test_a_stream_that_is_not_the_journals_stays_plain(tmp_path):
    with (tmp_path / "file").open("w+") as stream:
        logs.setup("info", stream, {"JOURNAL_STREAM": "1:2"})
        LOG.info("a")
        stream.seek(0)
        assert not stream.read().startswith("<")


def test_text_from_outside_can_neither_forge_a_line_nor_steer_a_terminal():
    stream = written()
    LOG.info("network %s", "blue\n2026-01-01T00:00:00.000Z ERROR agent: forged \x1b[2J\x9b")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "\\x1b[2J\\x9b" in stream.getvalue()


def test_a_bug_keeps_its_traceback_on_one_line():
    stream = written()
    try:
        raise KeyError("gone")
    except KeyError:
        LOG.exception("a bug")
    assert stream.getvalue().count("\n") == 1
    assert "Traceback" in stream.getvalue()
    assert "KeyError: 'gone'" in stream.getvalue()


def test_the_level_changes_at_run_time():
    stream = written("warning")
    LOG.info("unseen")
    logs.set_level("debug")
    assert logs.get_level() == "debug"
    LOG.debug("seen")
    with pytest.raises(InputError, match="'loud' is not one of debug, info, warning, error"):
        logs.set_level("loud")
    assert logs.get_level() == "debug"
    assert "unseen" not in stream.getvalue()
    assert "seen" in stream.getvalue()


def error(attempts=1):
    return ObjectStatus(ItemState.ERROR, "refused", since=1.0, attempts=attempts)


def messages(stream):
    return [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()]


def test_an_item_is_logged_when_its_state_changes_and_not_when_it_is_tried_again():
    stream = written()
    changes = logs.StateChangeLog(LOG)
    ref = ItemRef("flows", "table=0,priority=1")
    for attempt in range(1, 6):
        changes.items({ref: error(attempt)}, revision=7)
    changes.items({ref: replace(error(5), state=ItemState.BLOCKED, message="waits for ovs item x")}, revision=8)
    changes.items({}, revision=9)
    changes.items({}, revision=10)
    assert messages(stream) == [
        "flows item table=0,priority=1: done -> error at revision 7: refused",
        "flows item table=0,priority=1: error -> blocked at revision 8: waits for ovs item x",
        "flows item table=0,priority=1: blocked -> done at revision 9 after 5 attempts",
    ]


def test_what_waits_for_one_failure_has_no_lines_of_its_own():
    stream = written()
    changes = logs.StateChangeLog(LOG)
    failed = ItemRef("netns", "qrouter-1")
    blocked = replace(error(), state=ItemState.BLOCKED, message="waits for netns", waits_for=failed)
    unfinished = {failed: error(), **{ItemRef("nat", f"rule {number}"): blocked for number in range(40)}}
    changes.items(unfinished, revision=7)
    changes.items({}, revision=8)
    assert messages(stream) == [
        "netns item qrouter-1: done -> error at revision 7: refused",
        "netns item qrouter-1: error -> done at revision 8 after 1 attempts",
    ]


def test_a_router_is_logged_when_its_gateway_moves_or_something_is_missing():
    stream = written()
    changes = logs.StateChangeLog(LOG)
    edge = Router(RouterId("r1"), "edge")
    away = RouterState(edge.id, active=False, ready=True, reason="host host1 has the gateway", since=1.0)
    here = replace(away, active=True, reason="")
    broken = replace(here, ready=False, reason="netns: no")
    for revision, state in enumerate((away, replace(away, reason="host host1 has the gateway; x"), here, broken, here)):
        changes.routers({edge.id: state}, {edge.id: edge}, revision)
    changes.routers({}, {}, 5)
    assert messages(stream) == [
        "router r1 (edge): new -> no gateway here (host host1 has the gateway) at revision 0",
        "router r1 (edge): no gateway here (host host1 has the gateway; x) -> gateway here at revision 2",
        "router r1 (edge): gateway here -> gateway here, not ready (netns: no) at revision 3",
        "router r1 (edge): gateway here, not ready (netns: no) -> gateway here at revision 4",
        "router r1: gone at revision 5",
    ]


def test_a_port_is_logged_when_it_comes_changes_and_goes():
    stream = written()
    changes = logs.StateChangeLog(LOG)
    port = PortState(PortId("p1"), "vm1", NetworkId("n1"), up=False, reason="no interface", since=1.0)
    up = replace(port, up=True, reason="", since=2.0)
    changes.ports({port.id: port}, revision=1)
    changes.ports({port.id: replace(port, since=1.5)}, revision=2)
    changes.ports({port.id: up}, revision=3)
    changes.ports({port.id: up}, revision=4)
    changes.ports({}, revision=5)
    assert messages(stream) == [
        "port p1 (vm1): new -> down (no interface) at revision 1",
        "port p1 (vm1): down (no interface) -> up at revision 3",
        "port p1 (vm1): gone at revision 5",
    ]


def test_a_fact_is_logged_when_it_changes_with_the_level_of_the_news():
    stream = written()
    changes = logs.StateChangeLog(LOG)
    changes.fact("store", "connected", "unix:/run/x")
    changes.fact("store", "connected", "unix:/run/x")
    changes.fact("store", "away", "connection refused", revision=7, good=False)
    lines = stream.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "INFO agent.core.example: store: connected: unix:/run/x",
        "WARNING agent.core.example: store: connected -> away at revision 7: connection refused",
    ]
