# SPDX-License-Identifier: Apache-2.0
"""Asking a daemon's status socket: what commands use.

Every error says what to do about it; none needs a traceback.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from agent.core.errors import Actor, AgentError, InputError

DEFAULT_TIMEOUT = 10.0  # seconds


class AgentUnavailableError(AgentError):
    """The daemon cannot be asked, or could not answer."""


class AgentBusyError(AgentUnavailableError):
    """The daemon is there but has no time now; try again."""

    actor = Actor.NOBODY


def get(
    socket_path: str | Path, path: str, timeout: float = DEFAULT_TIMEOUT, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the answer to ``GET path``.

    *timeout* is in seconds for each step of the exchange.  ``/live`` and ``/ready``
    answer also when they say no.  Raises InputError for what the daemon refuses,
    AgentBusyError when it should be asked again, AgentUnavailableError for all else.
    """
    status, body = _exchange(socket_path, "GET", _target(path, query), None, timeout)
    return _decode(socket_path, status, body)


def post(
    socket_path: str | Path, path: str, body: Mapping[str, object] | None = None, timeout: float = DEFAULT_TIMEOUT
) -> dict[str, Any]:
    """Return the answer to ``POST path`` with *body* as JSON.  Raises as ``get`` does."""
    status, answer = _exchange(socket_path, "POST", _target(path, None), json.dumps(body or {}).encode(), timeout)
    return _decode(socket_path, status, answer)


def get_text(socket_path: str | Path, path: str, timeout: float = DEFAULT_TIMEOUT) -> str:
    """Return the text of a page that is no JSON (``/metrics``).  Raises as ``get`` does."""
    status, body = _exchange(socket_path, "GET", _target(path, None), None, timeout)
    if status != http.client.OK:
        _decode(socket_path, status, body)
    return body.decode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _target(path: str, query: Mapping[str, str] | None) -> str:
    return quote(path, safe="/?=&") + (f"?{urlencode(query)}" if query else "")


def _exchange(
    socket_path: str | Path, method: str, target: str, body: bytes | None, timeout: float
) -> tuple[int, bytes]:
    where = f"agent socket {socket_path}"
    connection = _UnixConnection(str(socket_path), timeout)
    try:
        # A server that is full answers and closes without reading: the answer is worth more than the broken pipe.
        with contextlib.suppress(BrokenPipeError):
            connection.request(method, target, body=body, headers={"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    except FileNotFoundError:
        raise AgentUnavailableError(f"{where}: no such file (is hostplane-agent running?)") from None
    except PermissionError:
        text = "permission denied (run this as root or as a member of the group 'hostplane')"
        raise AgentUnavailableError(f"{where}: {text}") from None
    except ConnectionRefusedError:
        text = "nobody answers (hostplane-agent has ended; see 'systemctl status hostplane-agent')"
        raise AgentUnavailableError(f"{where}: {text}") from None
    except TimeoutError:
        raise AgentBusyError(f"{where}: no answer within {timeout:g} s (the daemon is stopped or very busy)") from None
    except (OSError, http.client.HTTPException) as err:
        raise AgentUnavailableError(f"{where}: {err or type(err).__name__}") from None
    finally:
        connection.close()


def _decode(socket_path: str | Path, status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        text = f"agent socket {socket_path}: answered {status} with something that is not JSON"
        raise AgentUnavailableError(f"{text} (is that hostplane-agent?)")
    if "error" not in answer:
        return answer
    text = str(answer["error"])
    if status < http.client.INTERNAL_SERVER_ERROR:
        raise InputError(text)
    raise AgentBusyError(text) if answer.get("actor") == Actor.NOBODY else AgentUnavailableError(text)
