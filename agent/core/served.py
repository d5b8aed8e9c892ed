# SPDX-License-Identifier: Apache-2.0
"""How planners write down what the responder is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from agent.core.items import Served

_DIGEST_OCTETS = 16
_TEXT = json.JSONEncoder(separators=(",", ":"), sort_keys=True, check_circular=False)  # made once: each port needs it


def served(data: Mapping[str, object]) -> Served:
    """Return the item of *data*, JSON values: equal ones have the same text and digest."""
    text = _TEXT.encode(data)
    return Served(hashlib.blake2b(text.encode(), digest_size=_DIGEST_OCTETS).hexdigest(), text)
