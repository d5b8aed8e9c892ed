# SPDX-License-Identifier: Apache-2.0
"""What an instance is told of the size of packets on the way to an address.  Runs as a program inside it.

``path_mtu.py ADDRESS SIZE`` sends datagrams that make packets of SIZE octets and must not be
fragmented, until the kernel has heard of a smaller MTU or 3 seconds have passed, and prints
what it takes for the MTU then.  The kernel believes ICMP errors only if the packet that they
quote is one of the socket's own: its addresses and ports must be as they were sent.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import time

PATIENCE, INTERVAL = 3.0, 0.02
IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DO = 10, 14, 2  # <linux/in.h>
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_PMTUDISC_DO = 23, 24, 2  # <linux/in6.h>
HEADERS = {4: 28, 6: 48}
PORT = 9


def learn(address: str, size: int) -> int:
    version = ipaddress.ip_address(address).version
    family, level, discover, do, mtu = (
        (socket.AF_INET, socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU)
        if version == 4
        else (socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_MTU)
    )
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.setsockopt(level, discover, do)
        link.connect((address, PORT))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and link.getsockopt(level, mtu) >= size:
            with contextlib.suppress(OSError):
                link.send(bytes(size - HEADERS[version]))
            time.sleep(INTERVAL)
        return link.getsockopt(level, mtu)


if __name__ == "__main__":
    print(learn(sys.argv[1], int(sys.argv[2])))
