# SPDX-License-Identifier: Apache-2.0
"""Near names for a word that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'a' or 'b'?`` for names like *word*, or nothing."""
    matches = difflib.get_close_matches(word.replace("-", "_"), list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
