# SPDX-License-Identifier: Apache-2.0
"""Raw Ethernet frames, as a program inside an instance; one frame a line, in hexadecimal.

``frames.py send DEVICE`` sends what comes on standard input.  ``frames.py capture
DEVICE`` prints ``ready`` and then every frame that arrives, until standard input
closes.  VLAN tags that the kernel has taken off are put back.
"""

from __future__ import annotations

import select
import socket
import struct
import sys

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_OUTGOING = 4
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid


def send(device: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((device, 0))
        for line in sys.stdin:
            link.send(bytes.fromhex(line))


def capture(device: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as link:
        link.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        link.bind((device, ETH_P_ALL))
        print("ready", flush=True)
        while True:
            readable = select.select([link, sys.stdin], [], [])[0]
            if link in readable:
                frame, extra, _, source = link.recvmsg(65536, 256)
                if source[2] != PACKET_OUTGOING:
                    print(with_tag(frame, extra).hex(), flush=True)
            elif sys.stdin in readable:
                return


def with_tag(frame: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = AUXDATA.unpack_from(data)
            if status & TP_STATUS_VLAN_VALID:
                tag = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return frame[:12] + struct.pack("!HH", tag, tci) + frame[12:]
    return frame


if __name__ == "__main__":
    {"send": send, "capture": capture}[sys.argv[1]](sys.argv[2])
