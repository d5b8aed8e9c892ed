# SPDX-License-Identifier: Apache-2.0
"""Green threads that meet a bug, in processes of their own: this one must not import eventlet."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
from agent.responder import green

def fail():
    raise ZeroDivisionError("a bug")
"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_bug_in_one_request_is_told_and_the_rest_goes_on():
    code, out, err = run(
        """
task = green.spawn("metadata of port x", fail)
green.sleep(0.01)
print("goes on", task.ended)
"""
    )
    assert (code, err) == (0, "")
    assert "ERROR metadata of port x: a bug; the rest goes on\nTraceback" in out
    assert out.endswith("ZeroDivisionError: a bug\ngoes on True\n")


def test_a_bug_in_a_loop_that_all_need_ends_the_process_with_its_traceback():
    code, out, _ = run(
        """
green.spawn("socket dhcp", fail, fatal=True)
green.sleep(5)
print("goes on")
"""
    )
    assert code == 1
    assert "CRITICAL socket dhcp died of a bug, ending\nTraceback" in out
    assert "goes on" not in out


def test_what_is_killed_cleans_up_and_is_no_bug():
    code, out, err = run(
        """
import socket
ends = socket.socketpair()
ends[0].setblocking(False)

def wait():
    try:
        green.recv(ends[0], 1)
    finally:
        ends[0].close()

task = green.spawn("waits", wait, fatal=True)
green.sleep()
task.kill()
print(task.ended, ends[0].fileno())
"""
    )
    assert (code, out, err) == (0, "True -1\n", "")


def test_waiting_and_sending_end_in_time():
    code, out, err = run(
        """
import socket, time
ends = socket.socketpair()
for end in ends:
    end.setblocking(False)
for what in (lambda: green.recv(ends[0], 1, 0.05), lambda: green.send_all(ends[0], bytes(1 << 24), 0.05),
             lambda: green.recv(ends[0], 1, -1)):
    try:
        what()
    except TimeoutError:
        print("in time")
ends[1].send(b"x")
print(green.recv(ends[0], 5, 1))
"""
    )
    assert (code, out, err) == (0, "in time\n" * 3 + "b'x'\n", "")
