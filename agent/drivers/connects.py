# SPDX-License-Identifier: Apache-2.0
"""Driver ``connects``: how fast each source may open TCP connections to what listens in a namespace of ours.

All who connect to a socket wait in one queue, and share the buffers of the device that
the answers leave by.  So who connects without pause has everybody wait, although its
connections are refused: the kernel has to drop them before (measured: 7,000 a second
of one instance had others wait for up to 1.3 s, and once limited none).

Table ``inet hostplane`` of the namespace is ours.  The comments of its rules say what
they do, and how many of them there are is compared; what else somebody writes into it
is not: it keeps nobody out, it only keeps things fair.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Final

from agent.command import Runner
from agent.core.errors import ApplyError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers import nft_table
from agent.drivers.nft_table import Family, TableReader
from agent.namespace import inside_named

_VALUE: Final = re.compile(r"([0-9]{1,9})/second burst ([0-9]{1,9}) packets")
_CHANGED: Final = "changed"  # what is found in place of the value
_SOURCES: Final = (("4", "ipv4_addr", "ip saddr"), ("6", "ipv6_addr", "ip6 saddr"))
_FORGET: Final = 10  # seconds after which a source that is quiet is forgotten
_NAMELESS: Final = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)  # nothing has the name, or a thing that is no namespace


class ConnectsDriver:
    """The limits of *namespaces*, which are the only ones that it looks into; by their names."""

    name = "connects"

    def __init__(self, run: Runner, namespaces: tuple[str, ...]) -> None:
        self._run = run
        self._namespaces = namespaces

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read the limits that are there.  Raises ApplyError, CommandError."""
        found = {name: self._read(name) for name in self._namespaces if keys is None or name in keys}
        return {name: value for name, value in found.items() if value is not None}

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write each limit, or take it away, in one step."""
        failed: dict[Key, Exception] = {}
        no_table = nft_table.without_table(Family.INET)
        scripts = {name: no_table + _table(value) for name, value in delta.creates.items()}
        scripts |= {name: no_table + _table(new) for name, (_, new) in delta.updates.items()}
        scripts |= dict.fromkeys(delta.deletes, no_table)
        for name, script in scripts.items():
            try:
                with inside_named(name):
                    nft_table.write(self._run, script)
            except OSError as err:
                if name not in delta.deletes or err.errno not in _NAMELESS:
                    failed[name] = _refused(name, err)
            except ApplyError as err:
                failed[name] = err
        return failed

    def _read(self, namespace: str) -> str | None:
        try:
            with inside_named(namespace), TableReader(Family.INET) as table:
                content = table.content()
        except OSError as err:
            if err.errno in _NAMELESS:
                return None
            raise _refused(namespace, err) from err
        return None if content is None else _value_of(content)


def _table(value: Value) -> str:
    """Return the table that has every source keep to *value*.  A set that is full lets further sources be."""
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise AssertionError(f"driver connects cannot hold {value!r}")
    lines = ["table inet hostplane {"]
    for version, kind, _ in _SOURCES:
        options = f"type {kind}; size 65535; flags dynamic,timeout; timeout {_FORGET}s;"
        lines.append(f"  set sources{version} {{ {options} }}")
    lines += ["  chain connects {", "    type filter hook input priority filter; policy accept;"]
    for version, _, source in _SOURCES:
        limit = f"update @sources{version} {{ {source} limit rate over {value} }}"
        lines.append(f'    tcp flags & (fin | syn | rst | ack) == syn {limit} drop comment "{value}"')
    return "\n".join((*lines, "  }", "}\n"))


def _value_of(content: nft_table.Content) -> str:
    """Return what a table says that it limits to."""
    comments = [comment for found in content.comments.values() for comment in found]
    hooks = [chain.hook for chain in content.chains]
    if len(comments) == len(_SOURCES) and len(set(comments)) == 1 and hooks == ["input"] and comments[0]:
        return comments[0]
    return _CHANGED


def _refused(namespace: str, err: OSError) -> ApplyError:
    return ApplyError(f"namespace {namespace}: limits of connections: {err.strerror or err}")
