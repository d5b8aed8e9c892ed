# SPDX-License-Identifier: Apache-2.0
"""An instance's metadata as a file has them, and as the store keeps them: nested and flat.

The store has one text for each key of ``agent.core.port_metadata``.  In a file
``ssh_keys`` is a list, ``meta`` a mapping, ``vendor_data`` JSON text or a mapping.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from agent.core.port_metadata import META_PREFIX

SSH_KEYS, VENDOR_DATA, META = "ssh_keys", "vendor_data", "meta"


def structured(flat: Mapping[str, str]) -> dict[str, object]:
    """Return *flat* as a file has it, in the order of its keys; ``meta`` last."""
    nested: dict[str, object] = {}
    meta: dict[str, str] = {}
    for key, text in sorted(flat.items()):
        if key.startswith(META_PREFIX):
            meta[key.removeprefix(META_PREFIX)] = text
        elif key == SSH_KEYS:
            nested[key] = text.splitlines()
        elif key == VENDOR_DATA:
            nested[key] = _mapping_or_text(text)
        else:
            nested[key] = text
    return {**nested, META: meta} if meta else nested


def _mapping_or_text(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:  # written past us: shown as it is, to be mended
        return text
    return value if isinstance(value, dict) and value else text


def vendor_text(value: Mapping[str, object]) -> str:
    """Return vendor data as JSON text, the same text for the same data."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def brief(flat: Mapping[str, str]) -> list[str]:
    """Return one line of text a key; what may be long, or secret, is only measured."""
    return [f"{key}={_shown(key, text)}" for key, text in sorted(flat.items())]


def _shown(key: str, text: str) -> str:
    if key == SSH_KEYS:
        return f"({len(text.splitlines())})"
    if key.startswith(("user_data", VENDOR_DATA)):
        return f"({len(text)} characters)"
    return text
