# SPDX-License-Identifier: Apache-2.0
"""Driver ``responder``: what the process that answers instances knows, and the sockets that it reads.

Everything that it knows is ours, and it tells the digests of it: these are read back.
While one responder is being replaced by another, everything goes to the new one, and
what only the old one has counts as there but not as desired, so that an ordinary pass
hands all of it over; then the old one may go.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from agent.core.errors import AgentError, ApplyError
from agent.core.items import ResponderSocket, Served
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers import responder_service
from agent.drivers.responder_service import ServiceFiles
from agent.drivers.responder_sockets import PREFIX, Sockets
from agent.responder.protocol import MAX_FRAME
from agent.responder_client import Request, ResponderAwayError, ResponderClient

_LARGEST_DATA: Final = MAX_FRAME - 4096  # octets; the rest is for what is around it in a frame
_ELSEWHERE: Final = Served("known to the responder that is being replaced")


@dataclass(frozen=True, slots=True)
class Target:
    """The responder that is to know everything; *former* is the socket of one that serves until then."""

    path: Path
    generation: str
    former: Path | None = None


class Responders(Protocol):
    """Who keeps a responder running."""

    def target(self) -> Target:
        """Return whom to tell; raise ResponderAwayError if there is nobody."""

    def handed_over(self, target: Target) -> None:
        """Take note that *target* knows and reads everything."""


@dataclass(slots=True)
class _Session:
    """What we know of the responder that we speak to; ``left`` is what only the former has."""

    target: Target
    client: ResponderClient
    left: set[Key] = field(default_factory=set)


class ResponderDriver:
    """Speaks to whom *responders* names."""

    name = "responder"

    def __init__(self, responders: Responders, sockets: Sockets | None = None) -> None:
        self._responders = responders
        self._sockets = sockets if sockets is not None else Sockets()
        self._service = ServiceFiles()
        self._session: _Session | None = None

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Ask what it knows.

        Raises ResponderAwayError; when asked for *keys* also if it is another process
        than the one that everything was last read from, because all is to be read then.
        """
        session = self._begin() if keys is None else self._present()
        with self._losing_on_error():
            digests = session.client.digests(keys)
            if keys is None or responder_service.KEY in keys:
                self._service.known = digests.get(responder_service.KEY)
            found = self._values(digests)
        if keys is None:
            session.left.difference_update(found)
            found |= dict.fromkeys(session.left, _ELSEWHERE)
            self._settle(session)
        return found

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Tell it everything in one batch: data before sockets, so that nothing is read that cannot be answered."""
        session = self._present()
        failed: dict[Key, Exception] = {}
        with self._losing_on_error():
            failed |= self._withdraw_sockets(session, delta)
            requests = dict(self._requests(delta, failed))
            answers = session.client.ask(list(requests.values()))
        for key, answer in zip(requests, answers, strict=True):
            if answer.error is not None:
                failed[key] = _refusal(key, answer.error)
        session.left.difference_update(delta.keys())
        self._settle(session)
        return failed

    def close(self) -> None:
        """Close the connection; the responder goes on."""
        session, self._session = self._session, None
        if session is not None:
            session.client.close()

    # With whom.

    def _begin(self) -> _Session:
        """Speak to the responder that is in force, and get from it what an earlier process of ours has opened."""
        target = self._responders.target()
        session = self._session
        if session is not None and session.target.generation == target.generation:
            return session
        self.close()
        client = ResponderClient(target.path)
        self._session = session = _Session(target, client)
        with self._losing_on_error():
            if client.hello.generation != target.generation:
                raise ResponderAwayError("the responder has just been replaced")
            if target.former is not None:
                session.left = self._take_over(target.former)
            elif self._sockets.missing():
                self._sockets.adopt(client.sockets())
        return session

    def _take_over(self, former: Path) -> set[Key]:
        """Get the sockets of the responder at *former*; return what it knows, as far as it can be asked."""
        try:
            client = ResponderClient(former)
        except AgentError:
            return set()  # it has ended
        with contextlib.closing(client):
            sockets = client.sockets()
            known = set(sockets)
            self._sockets.adopt(sockets)
            return known | client.digests().keys() if client.hello.understands_us else known

    def _present(self) -> _Session:
        """Return the responder that everything was last read from."""
        session = self._session
        if session is None or self._responders.target().generation != session.target.generation:
            self.close()
            raise ResponderAwayError("the responder is another process than before: all is read back")
        return session

    def _settle(self, session: _Session) -> None:
        """Let the former responder go once nothing is left with it."""
        if session.target.former is not None and not session.left:
            self._responders.handed_over(session.target)
            session.target = Target(session.target.path, session.target.generation)

    @contextlib.contextmanager
    def _losing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    # What it knows, and what it is told.

    def _values(self, digests: Mapping[Key, str]) -> dict[Key, Value]:
        found: dict[Key, Value] = {key: Served(digest) for key, digest in digests.items()}
        found |= self._sockets.values({key: digest for key, digest in digests.items() if key.startswith(PREFIX)})
        if responder_service.KEY in digests:
            found[responder_service.KEY] = self._service.value_of(digests[responder_service.KEY])
        return found

    def _withdraw_sockets(self, session: _Session, delta: Delta) -> dict[Key, Exception]:
        """Have sockets closed that are of no use any more, because an address may have but one listener."""
        for key in delta.deletes:
            self._sockets.forget(key)
        gone = [key for key in delta.deletes if key.startswith(PREFIX)]
        for key, (_, new) in delta.updates.items():
            if isinstance(new, ResponderSocket) and not self._sockets.has(key, new):
                gone.append(key)
        gone = [key for key in gone if key not in session.left]
        answers = session.client.ask([Request({"type": "delete", "key": key}) for key in gone])
        return {key: _refusal(key, answer.error) for key, answer in zip(gone, answers, strict=True) if answer.error}

    def _requests(self, delta: Delta, failed: dict[Key, Exception]) -> Iterator[tuple[Key, Request]]:
        """Yield what to ask for, by key; note in *failed* what cannot be asked for."""
        wanted = {**delta.creates, **{key: new for key, (_, new) in delta.updates.items()}}
        for key in sorted(wanted.keys() - failed.keys(), key=_place_in_batch):
            try:
                request = self._request(key, wanted[key])
            except ApplyError as err:
                failed[key] = err
            else:
                if request is not None:
                    yield key, request
        for key in delta.deletes:
            if not key.startswith(PREFIX):
                yield key, Request({"type": "delete", "key": key})

    def _request(self, key: Key, value: Value) -> Request | None:
        """Return what to ask for, None if it is so already.  Raises ApplyError."""
        if isinstance(value, ResponderSocket):
            opened, digest = self._sockets.get(key, value)
            return Request({"type": "socket", "key": key, "kind": value.kind, "digest": digest}, opened.fileno())
        if not isinstance(value, Served):
            raise ApplyError(f"responder: {key}: not an item that it can hold")
        if len(value.data) > _LARGEST_DATA:
            raise ApplyError(f"responder: {key}: {len(value.data)} octets are more than it takes")
        if key != responder_service.KEY:
            digest, data = value.digest, json.loads(value.data)
        elif self._service.load(value):  # after a start it has to be compared with files that only the plan names
            digest, data = self._service.digest, self._service.data
        else:
            return None
        return Request({"type": "put", "key": key, "digest": digest, "data": data})


def _refusal(key: Key, error: str | None) -> ApplyError:
    return ApplyError(f"responder: {key}: {error}")


def _place_in_batch(key: Key) -> tuple[int, Key]:
    """Order a batch: what is the same for all ports, ports, and what they are asked through."""
    return (2 if key.startswith(PREFIX) else int(key != responder_service.KEY), key)
