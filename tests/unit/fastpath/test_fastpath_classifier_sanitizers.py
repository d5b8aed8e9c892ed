# SPDX-License-Identifier: Apache-2.0
"""The classifier against a linear search in C, at larger sizes, under sanitizers, and beside a writer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "agent" / "_fastpath"
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", f"-I{SOURCE}"]
KEYS = "10000"


def build(folder: Path, name: str, *flags: str) -> Path:
    program = folder / name
    sources = [Path(__file__).with_name("classifier_harness.c"), SOURCE / "fp_packet.c", *SOURCE.glob("fp_acl*.c")]
    subprocess.run(["gcc", *STRICT, "-g", *flags, *sources, "-o", program, "-pthread"], check=True)
    return program


def succeeds(program: Path, *arguments: str) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("classifier"), "plain", "-O2")


@pytest.mark.parametrize("rules", ["1", "20", "1000", "5000"])
def test_the_classifier_finds_what_a_linear_search_finds(plain: Path, rules: str) -> None:
    succeeds(plain, "agree", rules, KEYS if rules != "5000" else "2000", "4850")


def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path: Path) -> None:
    sanitized = build(tmp_path, "asan", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    succeeds(sanitized, "agree", "400", "1000", "72")
    succeeds(sanitized, "threads", "0.5")


def test_thread_sanitizer_finds_nothing_between_readers_and_a_writer(tmp_path: Path) -> None:
    succeeds(build(tmp_path, "tsan", "-O1", "-fsanitize=thread"), "threads", "1")
