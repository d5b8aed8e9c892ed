# SPDX-License-Identifier: Apache-2.0
"""What the daemon and the command load: measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PRINT = (
    "import json, sys; print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))"
)


def loaded(statement: str) -> set[str]:
    argv = [sys.executable, "-c", f"{statement}\n{PRINT}"]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return set(json.loads(printed.splitlines()[-1]))


@pytest.fixture(scope="module")
def daemon() -> set[str]:
    return loaded("import agent.__main__")


def test_eventlet_is_there_to_be_imported():
    assert "eventlet" in loaded("import ovs.poller"), "without it installed the next test would show nothing"


@pytest.mark.parametrize("module", ["eventlet", "greenlet", "h11", "scapy", "pyroute2", "asyncio", "multiprocessing"])
def test_the_daemon_does_not_hold(daemon, module):
    assert module not in daemon


@pytest.mark.parametrize("package", ["agent.cli", "agent.sandbox", "ovsdbapp"])
def test_the_daemon_does_not_load_what_commands_need(daemon, package):
    assert not [name for name in daemon if name == package or name.startswith(f"{package}.")]


def test_the_command_holds_no_eventlet():
    listing = "main(['--store', 'unix:/nowhere', 'network', 'list'])"
    run = f"from agent.cli.main import main\ntry:\n  {listing}\nexcept SystemExit:\n  pass"
    modules = loaded(run)
    assert "ovsdbapp" in modules, "the command did not get as far as the store"
    assert not {"eventlet", "greenlet", "scapy"} & modules
