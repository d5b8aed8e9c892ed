# SPDX-License-Identifier: Apache-2.0
"""What is read of a process is what the kernel says of it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from bench.processes import cpu_seconds, memory

MEGABYTE = 1_000_000
HOLDING = (
    "import sys; held = b'x' * 64_000_000; freed = b'x' * 64_000_000; del freed; print(flush=True); sys.stdin.read()"
)


def test_memory_that_is_held_counts_as_own_and_memory_that_was_freed_as_peak():
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = memory(process.pid)
        process.kill()

    assert 64 * MEGABYTE < seen.own < 80 * MEGABYTE
    assert seen.own <= seen.rss
    assert seen.pss <= seen.rss
    assert seen.peak > 128 * MEGABYTE


def test_cpu_time_includes_that_of_children_that_have_ended():
    ours, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(usage.ru_utime + usage.ru_stime for usage in (ours, children))

    assert abs(cpu_seconds(os.getpid()) - used) < 0.1
