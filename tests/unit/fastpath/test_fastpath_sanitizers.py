# SPDX-License-Identifier: Apache-2.0
"""The parser under AddressSanitizer and UndefinedBehaviorSanitizer, and without any library."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent._fastpath import FlowKey, Parsed, Result, reference
from tests.unit.fastpath.frames import SAMPLES

SOURCE = Path(__file__).parents[3] / "agent" / "_fastpath"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", f"-I{SOURCE}"]
KEY_SIZE = 104
MUTATIONS = 1000  # of each sample


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("fastpath") / "harness"
    sanitizers = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [Path(__file__).with_name("sanitizer_harness.c"), SOURCE / "fp_packet.c"]
    subprocess.run(["gcc", *STRICT, *sanitizers, *sources, "-o", program], check=True)
    return program


def run(harness: Path, frames: list[bytes]) -> list[Parsed]:
    """Return what the sanitized build says; a finding fails the test with its report."""
    feed = b"".join(struct.pack("=I", len(frame)) + frame for frame in frames)
    done = subprocess.run([harness], input=feed, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    records = struct.iter_unpack(f"=B{KEY_SIZE}s", done.stdout)
    return [Parsed(Result(result), FlowKey.unpack(key)) for result, key in records]


def mutations(frame: bytes, dice: random.Random) -> Iterator[bytes]:
    for _ in range(MUTATIONS):
        changed = bytearray(frame)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(changed))] = dice.choice((0, 1, 0x80, 0xFF, dice.randrange(256)))
        yield bytes(changed[: dice.choice((len(changed), dice.randint(0, len(changed))))])


def test_every_prefix_of_every_sample(harness: Path) -> None:
    frames = [frame[:size] for frame in SAMPLES.values() for size in range(len(frame) + 1)]
    assert run(harness, frames) == [reference.parse(frame) for frame in frames]


def test_every_sample_with_every_byte_a_little_off(harness: Path) -> None:
    """Lengths and offsets err by one or by the unit they count in; numbers of protocols become extension headers."""
    frames = [
        frame[:at] + bytes([value]) + frame[at + 1 :]
        for frame in SAMPLES.values()
        for at in range(12, len(frame))
        for value in {0, 43, 44, 51, 60, 255, *((frame[at] + step) % 256 for step in (-8, -4, -1, 1, 4, 8, 16))}
    ]
    assert run(harness, frames) == [reference.parse(frame) for frame in frames]


def test_random_mutations(harness: Path) -> None:
    dice = random.Random(4850)
    frames = [changed for frame in SAMPLES.values() for changed in mutations(frame, dice)]
    assert run(harness, frames) == [reference.parse(frame) for frame in frames]


def test_the_parser_needs_nothing_from_outside(tmp_path: Path) -> None:
    """What becomes a BPF program can call no function of any library."""
    program = tmp_path / "program.c"
    program.write_text(
        '#include "fp_packet.c"\n'
        "int program(const uint8_t *start, const uint8_t *end, struct fp_flow_key *key);\n"
        "int program(const uint8_t *start, const uint8_t *end, struct fp_flow_key *key)\n"
        "{\n    return (int)fp_parse_range(start, end, key);\n}\n"
    )
    target = tmp_path / "program.o"
    subprocess.run(["gcc", *STRICT, "-D__bpf__", "-ffreestanding", "-O2", "-c", program, "-o", target], check=True)
    symbols = subprocess.run(["nm", "--undefined-only", target], check=True, capture_output=True, text=True)
    assert symbols.stdout == ""
