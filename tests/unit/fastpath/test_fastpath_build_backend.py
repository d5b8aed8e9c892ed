# SPDX-License-Identifier: Apache-2.0
"""The build backend: the header is the one description of the interface."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent._fastpath import build_backend

SOURCE = Path(build_backend.__file__).parent


def test_the_binding_is_generated_from_the_header_alone(tmp_path: Path) -> None:
    shutil.copy(SOURCE / "fp_packet.h", tmp_path)
    source = build_backend.generate(tmp_path)
    assert "fp_parse_batch" in source.read_text()


def test_a_current_binding_is_left_alone(tmp_path: Path) -> None:
    shutil.copy(SOURCE / "fp_packet.h", tmp_path)
    written = build_backend.generate(tmp_path).stat().st_mtime_ns
    assert build_backend.generate(tmp_path).stat().st_mtime_ns == written  # so nothing is compiled again


def test_a_header_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no part between"):
        build_backend.declarations("int fp_parse(void);")
