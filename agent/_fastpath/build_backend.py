# SPDX-License-Identifier: Apache-2.0
"""PEP 517 build backend: setuptools, after the C source of the binding has been generated.

cffi's own way into a build is ``setup.py``; this wrapper makes one needless.  It is
found through ``backend-path`` in ``pyproject.toml``, and runs in the top folder of
the source tree, as PEP 517 demands.  The headers are the only description of the
interface: what stands between their two marks is given to cffi as it is.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI
from setuptools import build_meta

_BEGIN = "/* cffi: begin */"
_END = "/* cffi: end */"
_HEADERS = ("fp_packet.h", "fp_acl.h")

# The hooks that need no C source are setuptools' own.
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel

_Settings = dict[str, str | list[str] | None] | None


def declarations(header: str) -> str:
    """Return the part of a header's text that is meant for cffi; ValueError without the marks."""
    _, begin, rest = header.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"no part between {_BEGIN} and {_END}")
    return body


def generate(folder: Path = Path("agent/_fastpath")) -> Path:
    """Write ``_fp.c`` beside the header in *folder* (untouched when it is current) and return its path."""
    ffi = FFI()
    for header in _HEADERS:
        ffi.cdef(declarations((folder / header).read_text()))
    ffi.set_source("agent._fastpath._fp", "\n".join(f'#include "{header}"' for header in _HEADERS))
    source = folder / "_fp.c"
    ffi.emit_c_code(str(source))
    return source


def build_wheel(wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel (PEP 517)."""
    generate()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel (PEP 660); the extension is put into the source tree."""
    generate()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: _Settings = None) -> str:
    """Build a source archive (PEP 517)."""
    generate()
    return build_meta.build_sdist(sdist_directory, config_settings)
