# SPDX-License-Identifier: Apache-2.0
"""Options for an instance's metadata: key by key, and whole files for what is longer than a line.

Together they are all of the metadata, whatever there was before.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterable
from pathlib import Path

from agent.core.errors import InputError
from agent.core.port_metadata import USER_DATA_LIMIT

_FILES = (
    ("--user-data-file", "user_data", "user data: what cloud-init runs, text or not"),
    ("--vendor-data-file", "vendor_data", "vendor data as JSON"),
    ("--ssh-key-file", "ssh_keys", "public keys, one a line (may be repeated)"),
)
_ENCODED = {"user_data": "user_data_base64"}  # what may be other than text
_JOINED = ("ssh_keys",)

Pair = tuple[str, str]


def add_file_options(group: argparse._ArgumentGroup, dest: str) -> None:
    """Add the options that take files; what is in them is appended to *dest* as (key, value)."""
    for flag, key, text in _FILES:
        group.add_argument(
            flag,
            action="append",
            type=_Reader(key),
            metavar="FILE",
            default=argparse.SUPPRESS,
            dest=dest,
            help=f"file with the instance's {text}",
        )


class _Reader:
    """Reads a file for one key (as argparse wants it: a callable)."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, name: str) -> Pair:
        try:
            with Path(name).open("rb") as stream:
                octets = stream.read(USER_DATA_LIMIT + 1)
        except OSError as err:
            raise argparse.ArgumentTypeError(f"{name}: {err.strerror}") from None
        if len(octets) > USER_DATA_LIMIT:
            raise argparse.ArgumentTypeError(f"{name}: more than {USER_DATA_LIMIT} octets")
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text:
            return self._key, text
        if self._key not in _ENCODED:
            raise argparse.ArgumentTypeError(f"{name}: is not UTF-8 text")
        return _ENCODED[self._key], base64.b64encode(octets).decode()


def merged(pairs: Iterable[Pair]) -> dict[str, str]:
    """Return the metadata that all options together give; raise InputError if one is given twice."""
    found: dict[str, str] = {}
    for key, text in pairs:
        if key in found and key not in _JOINED:
            raise InputError(f"metadata: {key} is given twice")
        found[key] = f"{found[key].rstrip()}\n{text}" if key in found else text
    return found
