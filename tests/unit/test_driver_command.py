# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys
import time

import pytest

from agent.command import CommandRunner
from agent.core.errors import CommandError


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_gives_the_input_and_returns_the_output():
    echo = python("import sys; sys.stdout.write(sys.stdin.read().upper())")

    assert CommandRunner()(echo, stdin="blue ü\n") == "BLUE Ü\n"
    assert CommandRunner()(echo, stdin=b"red") == "RED"


def test_no_shell_looks_at_the_arguments():
    assert CommandRunner()(("printf", "%s", "$HOME; *")) == "$HOME; *"


def test_adds_to_the_environment_and_asks_for_untranslated_messages():
    code = "import os; print(os.environ['LC_ALL'], os.environ['OVS_RUNDIR'], 'PATH' in os.environ)"

    assert CommandRunner()(python(code), env={"OVS_RUNDIR": "/run/x"}) == "C /run/x True\n"


def test_an_error_carries_what_is_needed_to_repeat_the_command():
    argv = python("import sys; sys.stderr.write('no such bridge\\n'); sys.exit(3)")

    with pytest.raises(CommandError, match="exit status 3: no such bridge") as caught:
        CommandRunner()(argv)
    assert (caught.value.argv, caught.value.returncode) == (argv, 3)


@pytest.mark.parametrize(
    ("program", "message"),
    [("hostplane-no-such-program", "is not installed"), ("/etc/passwd", "Permission denied")],
)
def test_a_program_that_cannot_be_started_is_a_command_error(program, message):
    with pytest.raises(CommandError, match=message):
        CommandRunner()((program,))


def test_a_program_that_hangs_is_ended_even_if_its_child_holds_the_pipes():
    child = "import subprocess, time; subprocess.Popen(['sleep', '3']); time.sleep(60)"
    started = time.monotonic()

    with pytest.raises(CommandError, match="timed out") as caught:
        CommandRunner()(python(child), timeout=0.5)
    assert caught.value.returncode is None
    assert time.monotonic() - started < 2.5


def test_large_input_and_output_do_not_block_each_other():
    text = "x" * 3_000_000

    assert CommandRunner()(("cat",), stdin=text) == text


def test_a_program_reads_all_of_its_input_even_if_the_daemon_is_killed_meanwhile(tmp_path):
    """Else half a line would be taken for a whole one: 10.0.0.0/2 for 10.0.0.0/24."""
    taken, size = tmp_path / "taken", 1_000_000
    # The program ends who has started it, as somebody else might, before it reads.
    program = f"kill -9 $PPID; cat > {taken}.part; mv {taken}.part {taken}"
    code = f"from agent.command import CommandRunner; CommandRunner()(('sh', '-c', {program!r}), stdin='x' * {size})"

    killed = subprocess.run(python(code), check=False, timeout=30)

    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while not taken.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert taken.stat().st_size == size


def test_each_command_is_timed_and_its_input_counted():
    seen = []
    run = CommandRunner(lambda program, seconds, done, size: seen.append((program, seconds >= 0, done, size)))

    run(("cat",), stdin="two\n")
    with pytest.raises(CommandError):
        run(("false",))

    assert seen == [("cat", True, True, 4), ("false", True, False, 0)]


def test_own_commands_are_known_by_their_process_id():
    run = CommandRunner()

    pid = int(run(("sh", "-c", "echo $$")))

    assert run.started(pid)
    assert not run.started(1)
