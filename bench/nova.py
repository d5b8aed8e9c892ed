# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Nova's metadata API: haproxy that answers every request itself.

What it costs must not be what is measured, so it is no program of ours.  It answers
with what it was told of the instance, some padding, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent.core.errors import ApplyError
from agent.sandbox.host import SimulatedHost
from agent.sandbox.process import ProcessRecord, start, tail
from agent.sandbox.sandbox import Place, Sandbox
from agent.sandbox.tools import run, wait_until

PORT = 8775
URL = f"http://127.0.0.1:{PORT}"
SECRET = "s3cret"
START_SECONDS = 10.0
_BODY = '{"uuid": "%[req.hdr(X-Instance-ID)]", "for": "%[req.hdr(X-Forwarded-For)]", "padding": "' + "x" * 1200 + '"}'
_CONFIG = """
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend nova
    bind {address}
    http-request return status 200 content-type application/json lf-file {body}
"""


class NovaStandIn:
    """Listens on 127.0.0.1 of a host, or on a unix socket there."""

    def __init__(self, sandbox: Sandbox, host: SimulatedHost, *, unix: bool = False) -> None:
        folder = host.paths.root
        self.address = f"unix@{folder / 'nova.sock'}" if unix else f"127.0.0.1:{PORT}"
        self._log = host.paths.log("nova")
        config, body = folder / "nova.cfg", folder / "nova.body"
        body.write_text(_BODY)
        config.write_text(_CONFIG.format(address=self.address, body=body))
        argv = sandbox.argv(Place(host), ["haproxy", "-db", "-f", str(config)])
        self.process: ProcessRecord = start(argv, _environment(host), self._log)
        listening = sandbox.argv(Place(host), ["ss", "-Hnl", "--tcp", f"sport = {PORT}"])

        def is_ready() -> bool:
            if not self.process.is_alive():
                raise ApplyError(f"the stand-in for Nova has ended: {tail(self._log)}")
            return (folder / "nova.sock").exists() if unix else bool(run(listening).strip())

        wait_until("the stand-in for Nova listens", is_ready, START_SECONDS, pause=0.05)


def _environment(host: SimulatedHost) -> Mapping[str, str]:
    return {**os.environ, **host.inner_environment()}
