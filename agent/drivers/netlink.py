# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7) in batches: pyroute2's messages over one socket of pyroute2's.

The kernel works through all messages of one ``sendmsg`` before it returns, so what
is sent together is done in one step: a process that is killed leaves all of it or
nothing.  ``IPRoute`` sends one request at a time, builds each in 1.5 ms, and runs an
asyncio loop in the calling thread; its message classes and ``IPRSocket`` do without.
(Figures and the parts of the library that are used here are those of 0.9.7.)

A socket belongs to the namespace in which it is made and to one thread at a time.
It joins no multicast group, so that changes of others are not queued for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl.iprsocket import IPRSocket

from agent.core.errors import ApplyError
from agent.drivers.refusal import RefusedError

_Frozen = TypeVar("_Frozen")
Message: TypeAlias = Any  # pyroute2 has no types: one of its messages, with header type and flags set

_BATCH = 64  # messages in one sendmsg: if each is answered by a whole link, the answers fit a default receive buffer
_RECEIVE_SIZE = 1 << 16  # the kernel makes no larger parts of a dump than 32 KiB
_TIMEOUT = 10.0  # seconds; the kernel answers at once, but nothing may hang the watchdog
_DUMP_TRIES = 10
_KIND = struct.Struct("=4xHH")  # of a netlink header: type and flags


class RouteSocket:
    """A netlink socket for links, addresses, routes, neighbours and rules.

    After an OSError (time-out, answers lost) it is in an unknown state: close it.
    """

    def __init__(self) -> None:
        self._socket = IPRSocket(groups=0, ext_ack=True)
        self._socket.socket.settimeout(_TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def dump(
        self, request: Message, concerns: Callable[[bytes], bool], freeze: Callable[[Message], _Frozen]
    ) -> list[_Frozen]:
        """Return what the kernel lists, as far as *concerns* says yes to a message's bytes, each frozen at once.

        A decoded link takes 0.4 ms and 40 kB, so what does not concern us is not
        decoded, and nothing is kept.  Raises RefusedError, OSError, and ApplyError if
        the list keeps changing.
        """
        for _ in range(_DUMP_TRIES):
            found = self._dump(request, concerns, freeze)
            if found is not None:
                return found
        raise ApplyError("what the kernel lists kept changing while it was read")

    def ask(self, requests: Iterable[Message], freeze: Callable[[Message], _Frozen]) -> list[_Frozen | RefusedError]:
        """Send requests with one answer each; return the answers, frozen.  Raises OSError."""
        answers: list[_Frozen | RefusedError] = []
        for batch in _batches([request] for request in requests):
            first = self._send([request for (request,) in batch])
            found: dict[int, _Frozen | RefusedError] = {}
            while len(found) < len(batch):
                for message in self._receive():
                    found[message["header"]["sequence_number"]] = _refusal(message) or freeze(message)
            answers += [found[first + offset] for offset in range(len(batch))]
        return answers

    def write(self, steps: Iterable[Sequence[Message]]) -> list[RefusedError | None]:
        """Send *steps*, the messages of each together; return for each the first that was refused.

        A message that follows a refused one is sent nevertheless.  Raises OSError.
        """
        refused: list[RefusedError | None] = []
        for batch in _batches(steps):
            messages = [message for step in batch for message in step]
            # The kernel answers in order, tells every error, and success only where
            # it is asked to: the last answer says that all others have come.
            messages[-1]["header"]["flags"] |= NLM_F_ACK
            first = self._send(messages)
            errors = self._errors(first + len(messages) - 1)
            for step in batch:
                sequence = range(first, first + len(step))
                refused.append(next((errors[number] for number in sequence if number in errors), None))
                first += len(step)
        return refused

    def _errors(self, last: int) -> dict[int, RefusedError]:
        errors: dict[int, RefusedError] = {}
        while True:
            for message in self._receive():
                number = message["header"]["sequence_number"]
                refusal = _refusal(message)
                if refusal is not None:
                    errors[number] = refusal
                if number == last:
                    return errors

    def _dump(
        self, request: Message, concerns: Callable[[bytes], bool], freeze: Callable[[Message], _Frozen]
    ) -> list[_Frozen] | None:
        """Return what is listed, or None if it changed in between."""
        request["header"]["flags"] = NLM_F_REQUEST | NLM_F_DUMP
        number = self._send([request])
        marshal = self._socket.marshal
        interrupted = False

        def parse(data: bytes, offset: int, length: int) -> Message | None:
            nonlocal interrupted
            kind, flags = _KIND.unpack_from(data, offset)
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind not in (NLMSG_DONE, NLMSG_ERROR) and not concerns(data[offset : offset + length]):
                return None
            return marshal.parse_one_message(kind, flags, number, data, offset, length)

        marshal.seq_map[number] = parse
        found: list[_Frozen] = []
        try:
            while True:
                for message in self._receive():
                    refusal = _refusal(message)
                    if refusal is not None:
                        raise refusal
                    if message["header"]["type"] == NLMSG_DONE:
                        return None if interrupted else found
                    found.append(freeze(message))
        finally:
            del marshal.seq_map[number]

    def _send(self, messages: Sequence[Message]) -> int:
        """Send *messages* in one step, numbered; return the number of the first."""
        first = self._sequence + 1
        data = bytearray()
        for message in messages:
            self._sequence += 1
            message["header"]["sequence_number"] = self._sequence
            message.reset()
            message.encode()
            data += message.data
        self._socket.send(data)
        return first

    def _receive(self) -> Iterator[Message]:
        """Yield the messages of one datagram."""
        yield from self._socket.marshal.parse(self._socket.recv(_RECEIVE_SIZE))


def _refusal(message: Message) -> RefusedError | None:
    error = message["header"]["error"]  # NetlinkError, or OSError where the kernel ran out of buffers
    return None if error is None else RefusedError(*error.args)


def _batches(steps: Iterable[Sequence[Message]]) -> Iterator[list[Sequence[Message]]]:
    """Yield *steps* in batches, none of them cut in two; they are made no sooner than they are sent."""
    batch: list[Sequence[Message]] = []
    size = 0
    for step in steps:
        if batch and size + len(step) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(step)
        size += len(step)
    if batch:
        yield batch
