# SPDX-License-Identifier: Apache-2.0
"""The command as a program: start, usage, pipes, and what it never loads."""

from __future__ import annotations

import contextlib
import importlib
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import __version__
from agent.cli.main import COMMANDS, main

HOSTPLANE = [sys.executable, "-m", "agent.cli.main"]


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HOSTPLANE, *words], capture_output=True, text=True, timeout=30, **options)


def test_version_and_help() -> None:
    assert run("--version").stdout == f"hostplane {__version__}\n"
    text = run("--help").stdout
    assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hostplane {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([name, "no-such-verb"])  # refused with the verbs there are, where there are any
    refused = re.search(r"argument VERB: invalid choice: .* \(choose from (.*)\)", capsys.readouterr().err)
    for verb in re.findall(r"'([\w-]+)'", refused[1]) if refused is not None else ():
        with pytest.raises(SystemExit) as ended:
            main([name, verb, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: hostplane {name} {verb}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND\n"),
        (["netwrk"], "there is no command 'netwrk'; did you mean 'network'?"),
        (["network"], "the following arguments are required: VERB"),
        (["network", "create", "--typ", "vxlan", "a"], "unrecognized arguments: --typ"),
        (["--timeout", "0", "status"], "0 is not a number of seconds above 0"),
        (["status", "-o", "xml"], "invalid choice: 'xml'"),
        (["plug", "vm1"], "the following arguments are required: --netns"),
    ],
)
def test_wrong_usage_is_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_common_options_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--socket", "/nowhere", "status"], ["status", "--socket", "/nowhere"]):
        assert main(words) == 1
        assert "agent socket /nowhere: no such file" in capsys.readouterr().err
    for words in (["--store", "unix:/nowhere", "port", "list"], ["port", "--store", "unix:/nowhere", "list"]):
        assert main(words) == 1
        assert "store unix:/nowhere: " in capsys.readouterr().err
    for words in (["--name", "none", "status"], ["-o", "json", "--name", "none", "status"]):
        assert main(["sandbox", *words]) == 1
        assert "sandbox none: is not there" in capsys.readouterr().err


def test_the_environment_says_where_to_ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTPLANE_SOCKET", "/elsewhere")
    assert main(["status"]) == 1
    assert "/elsewhere" in capsys.readouterr().err
    monkeypatch.setenv("HOSTPLANE_STORE", "unix:/not/there")
    assert main(["network", "list"]) == 1
    assert "store unix:/not/there" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "plan"])
def test_an_agent_that_hangs_is_waited_for_as_long_as_was_said(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "agent.sock"))
        hanging.listen()
        begun = time.monotonic()
        assert main([command, "--socket", str(tmp_path / "agent.sock"), "--timeout", "0.1"]) == 1
        assert time.monotonic() - begun < 5
    assert "agent.sock" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen([*HOSTPLANE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
    assert stderr == b""


@pytest.mark.parametrize("name", ["network", "apply", "status", "plan", "plug"])
def test_a_command_loads_neither_eventlet_nor_scapy_nor_another_noun(name: str) -> None:
    script = (
        "import sys; from agent.cli.main import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', *(m for m, v in sys.modules.items() if v is not None))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    loaded = output.stdout.partition("LOADED ")[2].split()
    assert COMMANDS[name].module.partition(":")[0] in loaded
    assert not {module.partition(".")[0] for module in loaded} & {"eventlet", "greenlet", "scapy"}
    assert "agent.cli.subnet" not in loaded
    assert "agent.sandbox" not in loaded


def test_asking_the_agent_needs_no_database_library() -> None:
    script = "import sys, agent.cli.main, agent.cli.status; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert not {"ovs", "ovsdbapp", "pyroute2", "yaml"} & set(output.stdout.split())


def test_every_command_in_the_table_can_be_imported() -> None:
    for command in COMMANDS.values():
        module, _, function = command.module.partition(":")
        assert hasattr(importlib.import_module(module), f"configure_{function}" if function else "configure")


def test_arguments_that_are_no_text_are_wrong_usage() -> None:
    process = subprocess.run([*HOSTPLANE, "network", "show", b"\xff"], capture_output=True, text=True, timeout=30)
    assert process.returncode == 2
    assert process.stderr == "hostplane: the argument '\\udcff' is not UTF-8 text\n"
