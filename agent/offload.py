# SPDX-License-Identifier: Apache-2.0
"""Transmit checksum offload of network devices: what ``ethtool -K DEV tx on|off`` switches.

Open vSwitch's userspace datapath reads frames through AF_PACKET and passes them on
as they are: a checksum that was left to the hardware would never be filled in.  So
whatever sends into such a port has to compute checksums itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_TX = "tx-checksumming"  # as ethtool -k prints it


class TxChecksum:
    """Reads and switches devices of the namespace in which it was made; a context manager."""

    def __init__(self) -> None:
        # Here and not above: the library is large, and not every process gets so far.
        from pyroute2.ethtool import ioctl

        self._library = ioctl
        self._ethtool = ioctl.IoctlEthtool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ethtool.close()

    def enabled(self, device: str) -> bool:
        """Tell whether *device* leaves checksums to the hardware.  Raises OSError."""
        # The library's own reading asks for all flags: twelve system calls and 150 us.
        value = self._library.EthtoolValue(self._library.ETHTOOL_GTXCSUM, 0)
        self._call(device, lambda: self._run(value))
        return bool(value.data)

    def switch(self, device: str, enabled: bool) -> None:
        """Leave checksums to the hardware, or have them computed before sending.  Raises OSError."""
        self._call(device, lambda: self._ethtool.set_offload_flag(_TX, int(enabled)))

    def _run(self, value: Any) -> None:
        self._ethtool.ifreq.value = ctypes.pointer(value)
        self._ethtool.ioctl()

    def _call(self, device: str, call: Callable[[], None]) -> None:
        try:
            self._ethtool.change_ifname(device)
            call()
        except self._library.NoSuchDevice:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device) from None
        except self._library.NotSupportedError:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), device) from None


def disable_tx_checksum(device: str) -> None:
    """Make *device* (of the thread's namespace) compute checksums itself before it sends.  Raises OSError."""
    with TxChecksum() as checksum:
        checksum.switch(device, enabled=False)
