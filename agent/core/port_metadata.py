# SPDX-License-Identifier: Apache-2.0
"""What the store says of an instance for its metadata: the keys of ``Port.metadata`` and their meaning.

Shared by who writes them and who serves them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.errors import InputError

META_PREFIX = "meta:"
KEYS = ("availability_zone", "instance_id", "instance_type", "ssh_keys", "user_data", "user_data_base64", "vendor_data")
USER_DATA_LIMIT = 1 << 20  # octets; Nova allows 65,535 characters of base64
_INSTANCE_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclass(frozen=True, slots=True)
class PortMetadata:
    """Metadata of an instance.

    ``instance_id`` empty means the port's ``device_id``, or its id.  ``ssh_keys`` are
    lines of an ``authorized_keys`` file.  ``vendor_data`` is JSON text (a string in it is
    cloud-config, as cloud-init reads it).  ``meta`` are (key, value), sorted.
    """

    instance_id: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    vendor_data: str = ""
    availability_zone: str = ""
    instance_type: str = ""
    meta: tuple[tuple[str, str], ...] = ()


def read_metadata(pairs: Iterable[tuple[str, str]]) -> PortMetadata:
    """Return what *pairs* mean; raise InputError naming the key that makes no sense."""
    given: dict[str, str] = {}
    meta: list[tuple[str, str]] = []
    for key, value in sorted(pairs):
        if key.startswith(META_PREFIX) and len(key) > len(META_PREFIX):
            meta.append((key.removeprefix(META_PREFIX), value))
        elif key in KEYS:
            given[key] = value
        else:
            raise InputError(f"metadata: {key}: not one of {', '.join(KEYS)} or meta:NAME")
    instance_id = given.get("instance_id", "")
    if instance_id and not _INSTANCE_ID.fullmatch(instance_id):
        raise InputError("metadata: instance_id: must be 1 to 255 letters, digits, or any of . _ : -")
    return PortMetadata(
        instance_id=instance_id,
        ssh_keys=tuple(line.strip() for line in given.get("ssh_keys", "").splitlines() if line.strip()),
        user_data=_user_data(given),
        vendor_data=_vendor_data(given.get("vendor_data", "")),
        availability_zone=given.get("availability_zone", ""),
        instance_type=given.get("instance_type", ""),
        meta=tuple(meta),
    )


def _user_data(given: dict[str, str]) -> bytes:
    if "user_data" in given and "user_data_base64" in given:
        raise InputError("metadata: user_data: user_data_base64 is given, too; give one of them")
    try:
        octets = base64.b64decode(given.get("user_data_base64", ""), validate=True)
    except binascii.Error:
        raise InputError("metadata: user_data_base64: is not base64") from None
    octets = octets or given.get("user_data", "").encode()
    if len(octets) > USER_DATA_LIMIT:
        raise InputError(f"metadata: user_data: {len(octets)} octets, at most {USER_DATA_LIMIT} are allowed")
    return octets


def _vendor_data(text: str) -> str:
    if text:
        try:
            json.loads(text)
        except ValueError as err:
            raise InputError(f"metadata: vendor_data: is not JSON: {err}") from None
    return text
