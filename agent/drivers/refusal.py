# SPDX-License-Identifier: Apache-2.0
"""What the kernel answers over netlink when it does not do what it was asked to."""

from __future__ import annotations

import os

from agent.core.errors import ApplyError


class RefusedError(ApplyError):
    """What the kernel said no to; ``code`` is the errno."""

    def __init__(self, code: int, detail: str | None) -> None:
        self.code = code
        text = os.strerror(code)
        super().__init__(f"{text} ({detail})" if detail and detail != text else text)
