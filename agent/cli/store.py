# SPDX-License-Identifier: Apache-2.0
"""A connection to the store for the length of one command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.cli.options import Settings
from agent.core.errors import InputError
from agent.store.remotes import TlsFiles
from agent.store.writer import Writer


@contextlib.contextmanager
def open_store(ask: Settings) -> Iterator[Writer]:
    """Connect to the store of *ask*; raises AgentError when it is away."""
    with Writer.connect(ask.store, _tls(ask), ask.timeout) as writer:
        yield writer


def _tls(ask: Settings) -> TlsFiles | None:
    files = {"--private-key": ask.private_key, "--certificate": ask.certificate, "--ca-cert": ask.ca_cert}
    missing = [option for option, path in files.items() if path is None]
    if len(missing) == len(files):
        return None
    if ask.private_key is None or ask.certificate is None or ask.ca_cert is None:
        raise InputError(f"store: {' and '.join(missing)} must be given as well")
    return TlsFiles(ask.private_key, ask.certificate, ask.ca_cert)
