# SPDX-License-Identifier: Apache-2.0
"""An IDL that notices when the server refuses to be followed, and asks again.

The ``ovs`` package takes such an answer for nothing and then waits for ever.  It comes
from a store whose schema is older than ours: once that is converted, asking again helps.
"""

from __future__ import annotations

import time
from typing import Any

from ovs import jsonrpc, poller
from ovs.db import idl as ovs_idl

RETRY = 5.0  # seconds after a refusal
_OTHER_METHOD = "unknown method"  # of an older server: the IDL itself then asks in an older way


class RefusableIdl(ovs_idl.Idl):
    """``refusal`` is what the server said, "" while it has not refused."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.refusal = ""
        self._retry_at: float | None = None
        self._receive = self._session.recv
        self._session.recv = self._receive_and_note

    def run(self) -> bool:
        """See ``Idl.run``."""
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._retry_at = None
            self.force_reconnect()
        changed = bool(super().run())
        if self.state == self.IDL_S_MONITORING:
            self.refusal, self._retry_at = "", None
        return changed

    def wait_to_retry(self, waiter: poller.Poller) -> None:
        """Let *waiter* end when it is time to ask again."""
        if self._retry_at is not None:
            waiter.timer_wait(max(0, int((self._retry_at - time.monotonic()) * 1000)) + 1)

    def _receive_and_note(self) -> jsonrpc.Message | None:
        message = self._receive()
        if message is not None and message.type == jsonrpc.Message.T_ERROR:
            asked = self._monitor_request_id is not None and message.id == self._monitor_request_id
            if asked and message.error != _OTHER_METHOD:
                self.refusal = _text(message.error)
                self._retry_at = time.monotonic() + RETRY
        return message


def _text(error: object) -> str:
    """Return what an error of RFC 7047 says: its details where it has some."""
    return str(error.get("details") or error.get("error")) if isinstance(error, dict) else str(error)
