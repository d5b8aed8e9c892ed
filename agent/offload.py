# SPDX-License-Identifier: Apache-2.0
"""Transmit checksum offload of network devices: what ``ethtool -K DEV tx on|off`` switches.

Open vSwitch's userspace datapath reads frames through AF_PACKET and passes them on
as they are: a checksum that was left to the hardware would never be filled in.  So
whatever sends into such a port has to compute checksums itself.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from types import TracebackType
from typing import Self

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_GET, _SET = 0x16, 0x17  # linux/ethtool.h: ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM
_IFREQ = struct.Struct("=16sQ16x")  # netdevice(7): a device, and where the rest of the question is


class TxChecksum:
    """Reads and switches devices of the namespace in which it was made; a context manager.

    With *descriptor*, a socket of somebody else's, devices of that one's namespace.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if descriptor is None else None
        self._descriptor = self._own.fileno() if self._own is not None else descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._own is not None:
            self._own.close()

    def enabled(self, device: str) -> bool:
        """Tell whether *device* leaves checksums to the hardware.  Raises OSError."""
        return bool(self._call(device, _GET, 0))

    def switch(self, device: str, enabled: bool) -> None:
        """Leave checksums to the hardware, or have them computed before sending.  Raises OSError."""
        self._call(device, _SET, int(enabled))

    def _call(self, device: str, command: int, value: int) -> int:
        question = array.array("I", [command, value])  # struct ethtool_value
        request = _IFREQ.pack(device.encode(), question.buffer_info()[0])
        try:
            fcntl.ioctl(self._descriptor or 0, _SIOCETHTOOL, request)
        except OSError as err:
            raise OSError(err.errno, err.strerror, device) from None
        return question[1]


def disable_tx_checksum(device: str) -> None:
    """Make *device* (of the thread's namespace) compute checksums itself before it sends.  Raises OSError."""
    with TxChecksum() as checksum:
        checksum.switch(device, enabled=False)
