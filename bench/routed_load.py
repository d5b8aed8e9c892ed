# SPDX-License-Identifier: Apache-2.0
"""Send through a router and tell how fast that was.  Runs as a program in a namespace, on the standard library alone.

``routed_load.py serve PORT`` prints ``ready``, sends back each datagram that comes to the port, and
takes what TCP connections bring; it answers the end of a connection with the number of octets.
``routed_load.py stream PORT SECONDS ROUNDS ADDRESS...`` sends to each of the addresses by turns, over a connection for
so long; prints the octets a second of each, counted until the other end had them all.
``routed_load.py turns PORT COUNT ROUNDS ADDRESS...`` sends a datagram, waits for the answer, and goes on
with the next address; prints of each, for each round of so many, the seconds that half of them did not exceed.
Both print JSON, a list of samples by address.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import sys
import threading
import time

BLOCK = bytes(1 << 16)
PAYLOAD = bytes(64)
PATIENCE = 2.0  # seconds for an answer


def serve(port: int) -> None:
    """Answer until killed."""
    listener = socket.create_server(("", port))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", port))
    threading.Thread(target=_echo, args=(datagrams,), daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            total = 0
            while data := connection.recv(1 << 18):
                total += len(data)
            connection.sendall(f"{total}\n".encode())


def _echo(datagrams: socket.socket) -> None:
    while True:
        data, sender = datagrams.recvfrom(2048)
        datagrams.sendto(data, sender)


def stream(address: str, port: int, seconds: float) -> float:
    """Return octets a second."""
    with socket.create_connection((address, port), timeout=PATIENCE) as connection:
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            connection.sendall(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10 * PATIENCE)
        total = int(connection.makefile().readline())
        return total / (time.monotonic() - begun)


def turns(addresses: list[str], port: int, count: int) -> dict[str, float]:
    """Return the median of round trips by address, in seconds."""
    times: dict[str, list[float]] = {address: [] for address in addresses}
    with contextlib.ExitStack() as stack:
        askers = {address: stack.enter_context(_asker(address, port)) for address in addresses}
        for _ in range(count):
            for address, asker in askers.items():
                begun = time.perf_counter()
                asker.send(PAYLOAD)
                asker.recv(2048)
                times[address].append(time.perf_counter() - begun)
    return {address: statistics.median(found) for address, found in times.items()}


def _asker(address: str, port: int) -> socket.socket:
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.connect((address, port))
    asker.settimeout(PATIENCE)
    return asker


def main(what: str, port: int, amount: float, rounds: int, addresses: list[str]) -> dict[str, list[float]]:
    """Return the samples of each address, those of the first round left out: neighbors and flows are found in it."""
    samples: dict[str, list[float]] = {address: [] for address in addresses}
    for number in range(rounds + 1):
        ordered = addresses[:: -1 if number % 2 else 1]
        if what == "stream":
            found = {address: stream(address, port, amount) for address in ordered}
        else:
            found = turns(ordered, port, int(amount))
        for address in addresses if number else ():
            samples[address].append(found[address])
    return samples


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        json.dump(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]), sys.stdout)
