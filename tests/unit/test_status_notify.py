# SPDX-License-Identifier: Apache-2.0
"""What systemd hears, through a real notification socket; and when the loop counts as stuck."""

import os
import socket

import pytest

from agent.status.sdnotify import Heartbeat, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket and the value of NOTIFY_SOCKET that leads there."""
    name = f"@hpss-notify-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(5)
        bound.bind("\0" + name[1:] if name.startswith("@") else name)
        yield bound, name


def heard(bound):
    return bound.recv(4096).decode().split("\n")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_life_of_a_daemon_as_systemd_hears_it(manager):
    bound, name = manager
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/root"}

    notifier = Notifier.from_environment(environ)
    notifier.status("waiting for the store")
    notifier.ready("revision 7 is in place")
    notifier.feed_watchdog()
    notifier.reloading()
    notifier.ready("reloaded")
    notifier.stopping("the dataplane stays")

    assert notifier.watchdog_seconds == 30.0
    assert heard(bound) == ["STATUS=waiting for the store"]
    assert heard(bound) == ["READY=1", "STATUS=revision 7 is in place"]
    assert heard(bound) == ["WATCHDOG=1"]
    reloading, usec = heard(bound)
    assert reloading == "RELOADING=1"
    assert usec.startswith("MONOTONIC_USEC=")
    assert usec.partition("=")[2].isdigit()
    assert heard(bound) == ["READY=1", "STATUS=reloaded"]
    assert heard(bound) == ["STOPPING=1", "STATUS=the dataplane stays"]
    assert environ == {"HOME": "/root"}  # no command that we start may speak for us


def test_a_status_stays_one_line(manager):
    bound, name = manager
    Notifier(name).status("a\nREADY=1")
    assert heard(bound) == ["STATUS=a READY=1"]


def test_without_a_service_manager_nothing_happens():
    notifier = Notifier.from_environment({})
    notifier.ready("fine")
    assert notifier.watchdog_seconds is None


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@hpss-nobody-listens"])
def test_a_service_manager_that_is_gone_disturbs_nobody(address):
    Notifier(address).ready("fine")


def test_a_full_queue_does_not_block(manager):
    _bound, name = manager
    notifier = Notifier(name)
    for _ in range(5000):
        notifier.feed_watchdog()


@pytest.mark.parametrize("values", [{"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_meant_for_us_is_none(values):
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", **values}
    assert Notifier.from_environment(environ).watchdog_seconds is None


def test_the_watchdog_is_fed_by_progress_and_not_too_often(manager):
    bound, name = manager
    clock = Clock()
    heartbeat = Heartbeat(Notifier(name, 30.0), clock)
    for _ in range(100):  # 100 driver steps in one second
        clock.now += 0.01
        heartbeat.advanced()
    assert heard(bound) == ["WATCHDOG=1"]
    clock.now += heartbeat.longest_rest
    heartbeat.advanced()
    assert heard(bound) == ["WATCHDOG=1"]
    bound.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard(bound)


def test_resting_as_long_as_allowed_keeps_the_watchdog_fed(manager):
    bound, name = manager
    clock = Clock()
    heartbeat = Heartbeat(Notifier(name, 30.0), clock)
    fed = []
    bound.setblocking(False)
    for _ in range(40):
        heartbeat.resting()
        clock.now += heartbeat.longest_rest
        heartbeat.advanced()
        while True:
            try:
                heard(bound)
            except BlockingIOError:
                break
            fed.append(clock.now)
    gaps = [later - earlier for earlier, later in zip([100.0, *fed], fed, strict=False)]
    assert max(gaps) <= 15.0  # half of what systemd allows


def test_a_loop_without_progress_is_not_live():
    clock = Clock()
    heartbeat = Heartbeat(Notifier(None), clock)
    clock.now += 29.0
    assert heartbeat.live()[0] is True
    clock.now += 2.0
    assert heartbeat.live() == (False, "the reconcile loop has not advanced for 31 s (limit 30 s)")
    heartbeat.advanced()
    assert heartbeat.live()[0] is True


def test_waiting_for_work_is_no_blocking_but_a_long_step_is():
    clock = Clock()
    heartbeat = Heartbeat(Notifier(None), clock)
    clock.now += 0.5
    heartbeat.resting()
    clock.now += 7.0
    heartbeat.advanced()
    assert heartbeat.blocked_seconds_max() == 0.5
    clock.now += 2.0
    heartbeat.advanced()
    assert heartbeat.blocked_seconds_max() == 2.0


def test_the_longest_gap_is_forgotten_after_two_minutes():
    clock = Clock()
    heartbeat = Heartbeat(Notifier(None), clock)
    clock.now += 2.0
    heartbeat.advanced()
    for _ in range(10):
        heartbeat.resting()
        clock.now += 7.0
        heartbeat.advanced()
    assert heartbeat.blocked_seconds_max() == 2.0
    for _ in range(10):
        heartbeat.resting()
        clock.now += 7.0
        heartbeat.advanced()
    assert heartbeat.blocked_seconds_max() == 0.0
