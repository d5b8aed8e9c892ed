# SPDX-License-Identifier: Apache-2.0
"""Where the store is, how to speak to it, and which schema we know.

Apart from ``connection``, so that the daemon, which has a replica of its own, need
not load what commands write with.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ovs import stream
from ovs.db import idl as ovs_idl

from agent.core.errors import ConfigError

_REMOTE = re.compile(r"unix:/.+|(?:tcp|ssl):(?:\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for ``ssl:`` addresses: our key and certificate, and the CA that signed the server's."""

    private_key: str
    certificate: str
    ca_cert: str


def parse_remotes(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses of the store, checked; one item may hold several, separated by commas.

    Raises ConfigError naming the address that is wrong.
    """
    remotes = tuple(part.strip() for address in addresses for part in address.split(",") if part.strip())
    if not remotes:
        raise ConfigError("store: no address given (unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT)")
    for remote in remotes:
        match = _REMOTE.fullmatch(remote)
        if match is None or (match["port"] is not None and not 0 < int(match["port"]) < 65536):
            raise ConfigError(f"store {remote}: not an address (unix:/PATH, tcp:HOST:PORT or ssl:HOST:PORT)")
    return remotes


def use_tls(remotes: Sequence[str], tls: TlsFiles | None) -> None:
    """Make the ``ovs`` package use *tls*, which is one setting for the whole process.

    Raises ConfigError when an ``ssl:`` address has no files or one cannot be read.
    """
    if not any(remote.startswith("ssl:") for remote in remotes):
        return
    if tls is None:
        raise ConfigError("store: ssl: addresses need private_key, certificate and ca_cert")
    for setting, name in (("private_key", tls.private_key), ("certificate", tls.certificate), ("ca_cert", tls.ca_cert)):
        if not os.access(name, os.R_OK):
            raise ConfigError(f"store: {setting}: {name} cannot be read")
    stream.Stream.ssl_set_private_key_file(tls.private_key)
    stream.Stream.ssl_set_certificate_file(tls.certificate)
    stream.Stream.ssl_set_ca_cert_file(tls.ca_cert)


@cache
def schema_text() -> str:
    """Return our schema as it is installed."""
    return resources.files("agent.store").joinpath("hostplane.ovsschema").read_text(encoding="utf-8")


@cache
def schema_version() -> str:
    """Return the version of our schema: major.minor.patch."""
    return str(json.loads(schema_text())["version"])


def schema_helper() -> ovs_idl.SchemaHelper:
    """Return a new helper for an IDL of our schema, with nothing registered yet."""
    return ovs_idl.SchemaHelper(schema_json=json.loads(schema_text()))
