# SPDX-License-Identifier: Apache-2.0
"""The build backend: the headers are the one description of the interface."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent._fastpath import build_backend

SOURCE = Path(build_backend.__file__).parent


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    for name in ("fp_packet.h", "fp_acl.h"):
        shutil.copy(SOURCE / name, tmp_path)
    return tmp_path


def test_the_binding_is_generated_from_the_headers_alone(headers: Path) -> None:
    source = build_backend.generate(headers).read_text()
    assert "fp_parse_batch" in source
    assert "fp_acl_classify" in source


def test_a_current_binding_is_left_alone(headers: Path) -> None:
    written = build_backend.generate(headers).stat().st_mtime_ns
    assert build_backend.generate(headers).stat().st_mtime_ns == written  # so nothing is compiled again


def test_a_header_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no part between"):
        build_backend.declarations("int fp_parse(void);")
