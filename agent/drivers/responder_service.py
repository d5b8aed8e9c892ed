# SPDX-License-Identifier: Apache-2.0
"""What the responder is told about the metadata service: the store's paths, and what is in these files on this host.

The store names files, because nobody but this host shall know a secret.  They are read
when the item is written, and looked at again when it is read back, so that a new secret
or certificate is taken over without anybody saying so.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.core.errors import Actor, ApplyError
from agent.core.items import Served

KEY: Final = "service"
LARGEST: Final = 1 << 20  # octets of one file
_SECRET = "secret_file"  # noqa: S105 - the field's name
# Fields of the store's row, and what their contents are called in agent.metadata.data.
_FILES: Final = {
    _SECRET: "secret",
    "ca_file": "ca",
    "client_cert_file": "certificate",
    "client_key_file": "key",
}


class ServiceFileError(ApplyError):
    """A file that the metadata service's row names cannot be used on this host; tried again."""

    actor = Actor.OPERATOR


class ServiceFiles:
    """Remembers which files the item names, and what the responder was told; used by one thread.

    The responder keeps the digest but not the names: what it says must never decide which
    files a process with our rights opens.
    """

    def __init__(self) -> None:
        self._paths: Mapping[str, str] | None = None  # None: not known in this process
        self.known: str | None = None  # the responder's digest as last read, None if it knows nothing
        self.digest = ""
        self.data: Mapping[str, object] = {}

    def load(self, planned: Served) -> bool:
        """Read the files; set ``digest`` and ``data`` and tell whether the responder knows anything else.

        In ``data`` the files' contents have taken the place of their names.  Raises
        ServiceFileError.
        """
        data = json.loads(planned.data)
        nova = data.get("nova") or {}
        self._paths = {field: str(nova.get(field) or "") for field in _FILES}
        contents = _contents(self._paths)
        if nova:
            told = {name: value for name, value in nova.items() if name not in _FILES}
            data["nova"] = told | {_FILES[field]: text for field, text in contents.items()}
        self.digest, self.data = json.dumps([planned.digest, _summary(contents)]), data
        return self.digest != self.known

    def value_of(self, digest: str) -> Served:
        """Return the item that the responder's *digest* stands for: another one if a file has changed since."""
        try:
            planned, summary = json.loads(digest)
        except (TypeError, ValueError):
            return Served(digest)
        if self._paths is None:
            return Served(f"{planned}, with files that are not known yet")
        try:
            changed = _summary(_contents(self._paths)) != summary
        except ServiceFileError as err:
            return Served(f"{planned}, but {err}")
        return Served(f"{planned}, but its files have changed" if changed else str(planned))


def _contents(paths: Mapping[str, str]) -> dict[str, str]:
    return {field: _read(field, path) if path else "" for field, path in paths.items()}


def _summary(contents: Mapping[str, str]) -> str:
    text = json.dumps(contents, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read(field: str, path: str) -> str:
    """Return what is in a file, a secret without the white space around it."""
    try:
        text = _octets(Path(path)).decode()
    except OSError as err:
        raise _refusal(field, path, err.strerror or str(err)) from None
    except ValueError as err:
        raise _refusal(field, path, "is not text" if isinstance(err, UnicodeDecodeError) else str(err)) from None
    if field == _SECRET:
        text = text.strip()
    elif "-----BEGIN " not in text:
        raise _refusal(field, path, "is not PEM")
    if not text:
        raise _refusal(field, path, "is empty")
    return text


def _octets(path: Path) -> bytes:
    # What somebody has put there in its place (a FIFO, a device) must not hold the daemon.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ValueError("is not a file")
        octets = file.read(LARGEST + 1)
    if len(octets) > LARGEST:
        raise ValueError(f"is longer than {LARGEST} octets")
    return octets


def _refusal(field: str, path: str, why: str) -> ServiceFileError:
    return ServiceFileError(
        f"metadata service: {field}: {path}: {why}; put it right on this host or in the store, it is tried again"
    )
