# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces as the drivers use them: opened for a visit, asked over a socket, closed again.

A namespace is ours if the alias of its ``lo`` says so.  The alias is given before the
namespace gets its name, so none with a name is ever unmarked.

Nothing is kept between visits.  Opening and closing one takes 30 us; a socket or
descriptor that was kept would keep alive what somebody has deleted, with its end of
each veth pair, and would have to be watched for that.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.core.errors import Actor, ApplyError
from agent.drivers.devices import NAMESPACE_ALIAS
from agent.drivers.netlink import RouteSocket, attribute, message, read_attributes
from agent.drivers.refusal import RefusedError
from agent.namespace import inside

HOST: Final = ""  # stands for the namespace that the thread is in
ALIAS: Final = NAMESPACE_ALIAS

IFINFOMSG: Final = struct.Struct("=BxHiII")
RTM_NEWLINK, RTM_GETLINK = 16, 18
IFLA_IFALIAS, IFLA_EXT_MASK = 20, 29
NO_STATISTICS: Final = attribute(IFLA_EXT_MASK, struct.pack("=I", 1 << 3))  # RTEXT_FILTER_SKIP_STATS
_IFF_UP = 1
_LOOPBACK = 1  # index of lo in every namespace
_NOT_ONE = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO)


class ForeignError(ApplyError):
    """Something that is not ours has the name; an operator renames or removes it."""

    actor = Actor.OPERATOR


class Namespace:
    """A network namespace that is open; ``kernel`` asks in it, whatever namespace the thread is in.

    A context manager.  *name* is HOST or that of a file in *folder*.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        """Take over *descriptor*; raise OSError (EINVAL: it is no namespace)."""
        self.name = name
        self.descriptor = descriptor
        try:
            if name == HOST:
                self.kernel = RouteSocket()
            else:
                with inside(descriptor):
                    self.kernel = RouteSocket()
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and the descriptor."""
        self.kernel.close()
        os.close(self.descriptor)

    def loopback(self) -> tuple[str, bool]:
        """Return the alias of ``lo``, and whether it is up.  Raises OSError."""
        request = message(RTM_GETLINK, 0, IFINFOMSG.pack(0, 0, _LOOPBACK, 0, 0) + NO_STATISTICS)
        (answer,) = self.kernel.ask([request], _read_loopback)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    def mark(self, alias: str) -> None:
        """Give ``lo`` its alias, and bring it up, in one step.  Raises RefusedError, OSError."""
        body = IFINFOMSG.pack(0, 0, _LOOPBACK, _IFF_UP, _IFF_UP) + attribute(IFLA_IFALIAS, alias.encode())
        (refusal,) = self.kernel.write([[message(RTM_NEWLINK, 0, body)]])
        if refusal is not None:
            raise refusal

    def is_ours(self) -> bool:
        """Tell whether we made it.  Raises OSError."""
        return self.name == HOST or self.loopback()[0].startswith(ALIAS)


def open_namespace(name: str, folder: Path) -> Namespace | None:
    """Open a namespace, whoever made it; None if nothing has the name, or a thing that is no namespace.

    Raises ApplyError.
    """
    try:
        descriptor = os.open("/proc/thread-self/ns/net" if name == HOST else folder / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in _NOT_ONE:
            return None
        raise told(name, err) from err
    try:
        return Namespace(name, descriptor)
    except OSError as err:
        if err.errno == errno.EINVAL:
            return None
        raise told(name, err) from err


def open_ours(name: str, folder: Path) -> Namespace | None:
    """Open a namespace of ours (or HOST); None if there is none of that name.  Raises ApplyError."""
    namespace = open_namespace(name, folder)
    if namespace is None or name == HOST:
        return namespace
    try:
        ours = namespace.is_ours()
    except (OSError, ApplyError) as err:
        namespace.close()
        raise told(name, err) from err
    if ours:
        return namespace
    namespace.close()
    return None


def each_of_ours(folder: Path) -> Iterator[Namespace]:
    """Open one namespace of ours after the other; each is closed before the next.  Raises ApplyError."""
    for name in names(folder):
        namespace = open_ours(name, folder)
        if namespace is not None:
            with namespace:
                yield namespace


def names(folder: Path) -> list[str]:
    """Return what has a name in *folder*, namespace or not.  Raises ApplyError."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names only
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ApplyError(f"{folder}: {err.strerror or err}") from err


def told(name: str, err: Exception) -> ApplyError:
    """Return *err* as one that names the namespace."""
    text = (err.strerror or str(err)) if isinstance(err, OSError) else str(err)
    where = f"namespace {name}: " if name else "the kernel's list of network devices: "
    return ApplyError(text if text.startswith(where) else where + text)


def _read_loopback(link: bytes) -> tuple[str, bool]:
    alias = read_attributes(link, IFINFOMSG.size).get(IFLA_IFALIAS, b"")
    return alias.rstrip(b"\0").decode(errors="replace"), bool(IFINFOMSG.unpack_from(link)[3] & _IFF_UP)
