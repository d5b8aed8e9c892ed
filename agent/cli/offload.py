# SPDX-License-Identifier: Apache-2.0
"""Transmit checksum offload of a device, by the ioctl behind ``ethtool -K DEV tx off``."""

from __future__ import annotations

import ctypes
import fcntl
import socket

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h
_IFNAMSIZ = 16


class _Value(ctypes.Structure):
    """``struct ethtool_value``."""

    _fields_ = (("cmd", ctypes.c_uint32), ("data", ctypes.c_uint32))


class _Request(ctypes.Structure):
    """``struct ifreq`` with its data pointer; the union is 24 bytes on 64-bit machines."""

    _fields_ = (("name", ctypes.c_char * _IFNAMSIZ), ("data", ctypes.c_void_p), ("rest", ctypes.c_char * 16))


def disable_tx_checksum(device: str) -> None:
    """Make *device* (of the thread's namespace) compute checksums itself before it sends.

    Open vSwitch's userspace datapath reads frames through AF_PACKET and passes them
    on as they are: a checksum left to the hardware would never be filled in.  Raises
    OSError.
    """
    value = _Value(_ETHTOOL_STXCSUM, 0)
    request = _Request(device.encode(), ctypes.addressof(value), b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control.fileno(), _SIOCETHTOOL, request)
