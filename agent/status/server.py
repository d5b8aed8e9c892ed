# SPDX-License-Identifier: Apache-2.0
"""The status socket and the metrics endpoint: sockets, pages, errors.

Whoever may open the socket may read everything and release a hold, so its mode is
0660 and its group that of the operators.  On the TCP endpoint there is nothing but
``/metrics``.
"""

from __future__ import annotations

import contextlib
import grp
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from agent.config import StatusConfig
from agent.core.errors import Actor, AgentError, ConfigError, InputError, Problem
from agent.status import answers, port_page, router_page
from agent.status.httpd import HttpServer, Listener, Request, Response, json_body, listener
from agent.status.source import StatusSource

LOG = logging.getLogger(__name__)

SOCKET_MODE = 0o660
STATUS_CONNECTIONS = 16
METRICS_CONNECTIONS = 4
PLAN_SECONDS = 30.0  # how long a client waits for a plan at most

Scrape = Callable[[str], tuple[str, bytes]]


class StatusServer:
    """Answers on the status socket and, if it is switched on, on the metrics port.

    *scrape* gets the ``Accept`` header and returns content type and body of
    ``/metrics``.  Nothing is open before ``start``.
    """

    def __init__(
        self, config: StatusConfig, source: StatusSource, scrape: Scrape, now: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._pages = Pages(source, scrape, now)
        self._server: HttpServer | None = None
        self._socket_id: tuple[int, int] | None = None

    def start(self) -> tuple[Problem, ...]:
        """Open the sockets and start to answer.

        Raises ConfigError if the status socket cannot be opened, or another daemon
        answers there.  A metrics port that cannot be had is no reason to leave the
        dataplane alone: it comes back as a problem.
        """
        bound = open_status_socket(self._config.socket, self._config.socket_group)
        status = self._config.socket.stat()
        self._socket_id = (status.st_dev, status.st_ino)
        listeners = [listener(bound, self._pages.answer, self._pages.error_body, STATUS_CONNECTIONS)]
        problems: tuple[Problem, ...] = ()
        if self._config.metrics_port:
            try:
                listeners.append(self._metrics_listener())
            except OSError as err:
                where = f"{self._config.metrics_address} port {self._config.metrics_port}"
                text = f"cannot listen on {where}, so there are no metrics by TCP: {err.strerror}"
                problems = (Problem("config:status", "metrics_port", text, Actor.OPERATOR),)
                LOG.warning("%s", problems[0])
        self._server = HttpServer(listeners)
        self._server.start()
        return problems

    def stop(self) -> None:
        """Close the sockets; the status socket's file goes only if it is still ours."""
        if self._server is None:
            return
        self._server.stop()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            status = self._config.socket.stat()
            if (status.st_dev, status.st_ino) == self._socket_id:
                self._config.socket.unlink()

    def _metrics_listener(self) -> Listener:
        address = self._config.metrics_address
        bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address, self._config.metrics_port))
            bound.listen(METRICS_CONNECTIONS)
        except OSError:
            bound.close()
            raise
        return listener(bound, self._pages.answer_metrics, self._pages.error_body, METRICS_CONNECTIONS)


def open_status_socket(path: Path, group: str) -> socket.socket:
    """Return a socket that listens on *path*, mode 0660, of *group* if there is such a group.

    A file that a dead daemon left is replaced.  Raises ConfigError if a live one
    answers there, or the socket cannot be made.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        bound.bind(str(path))
        # Until listen() nobody can connect, so nobody gets in before the mode is right.
        path.chmod(SOCKET_MODE)
        _give_to(path, group)
        bound.listen(STATUS_CONNECTIONS)
    except OSError as err:
        bound.close()
        raise ConfigError(f"[status] socket: {path}: {err.strerror or err}") from None
    except ConfigError:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"[status] socket: {path} is there and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError:  # its queue is full, or the like: somebody is there
            pass
    raise ConfigError(f"[status] socket: another hostplane-agent answers at {path}; stop it first")


def _give_to(path: Path, group: str) -> None:
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        LOG.info("there is no group %r: only root may use %s", group, path)
        return
    os.chown(path, -1, gid)


class Pages:
    """What there is to ask.  Used by many threads; keeps nothing but who is planning."""

    def __init__(self, source: StatusSource, scrape: Scrape, now: Callable[[], float]) -> None:
        self._source = source
        self._scrape = scrape
        self._now = now
        self._planning = threading.Lock()
        self._counting = threading.Lock()
        self._routes: Mapping[tuple[str, str], Callable[[Request], Response]] = {
            ("GET", "/status"): self._status,
            ("GET", "/ports"): self._ports,
            ("GET", "/port"): self._port,
            ("GET", "/networks"): lambda _: self._json(answers.networks(source.state())),
            ("GET", "/routers"): self._routers,
            ("GET", "/router"): self._router,
            ("GET", "/floating-ip"): self._floating_ip,
            ("GET", "/flows"): self._flows,
            ("GET", "/problems"): lambda _: self._json(answers.problems(source.state())),
            ("GET", "/plan"): self._plan,
            ("GET", "/live"): lambda _: self._verdict("live", *source.live()),
            ("GET", "/ready"): lambda _: self._verdict("ready", *source.ready()),
            ("GET", "/metrics"): self.answer_metrics,
            ("POST", "/hold/release"): self._release_hold,
            ("POST", "/resync"): self._resync,
            ("POST", "/log-level"): self._log_level,
        }

    def paths(self) -> frozenset[tuple[str, str]]:
        """Return (method, path) of everything that there is."""
        return frozenset(self._routes)

    def answer(self, request: Request) -> Response:
        """Answer on the status socket."""
        route = self._routes.get((request.method, request.path))
        if route is not None:
            try:
                return route(request)
            except InputError as err:
                return self._error(HTTPStatus.BAD_REQUEST, str(err), err.actor)
            except AgentError as err:
                return self._error(HTTPStatus.SERVICE_UNAVAILABLE, str(err), err.actor)
        allowed = sorted(method for method, path in self._routes if path == request.path)
        if allowed:
            text = f"{request.path} takes {' and '.join(allowed)} only"
            return self._error(HTTPStatus.METHOD_NOT_ALLOWED, text, headers={"Allow": ", ".join(allowed)})
        known = ", ".join(sorted(path for _, path in self._routes))
        return self._error(HTTPStatus.NOT_FOUND, f"there is no such page; there are {known}")

    def answer_metrics(self, request: Request) -> Response:
        """Answer on the metrics port: ``GET /metrics`` and nothing else."""
        if (request.method, request.path) != ("GET", "/metrics"):
            return self._error(HTTPStatus.NOT_FOUND, "there is nothing but GET /metrics here")
        content_type, body = self._scrape(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)

    def error_body(self, status: int, text: str) -> bytes:
        """Return the body of an error that the HTTP server itself found."""
        actor = Actor.NOBODY if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Actor.OPERATOR
        return self._with_envelope({"error": text, "actor": actor.value})

    def _status(self, _request: Request) -> Response:
        state = self._source.state()
        live, live_text = self._source.live()
        ready, ready_text = self._source.ready()
        verdicts = {"live": {"ok": live, "text": live_text}, "ready": {"ok": ready, "text": ready_text}}
        return self._json({**answers.status(state, self._now()), **verdicts})

    def _ports(self, request: Request) -> Response:
        return self._json(answers.ports(self._source.state(), request.query.get("name")))

    def _port(self, request: Request) -> Response:
        name = _name(request, "port, by name or id")
        filters = self._source.port_filters(name)
        counters, error = None, None
        if any(found.bridge is not None for found in filters):
            with self._counting:  # each reads all rules of the host: one at a time is enough
                try:
                    counters = self._source.rule_counters()
                except AgentError as err:
                    error = str(err)
        services = self._source.port_services(name)
        return self._json(port_page.ports(self._source.state(), name, filters, counters, error, services))

    def _routers(self, request: Request) -> Response:
        return self._json(router_page.routers(self._source.routers(), request.query.get("name")))

    def _router(self, request: Request) -> Response:
        name = _name(request, "router, by name or id")
        with self._counting:  # each starts a program for the rules: one at a time is enough
            views = self._source.router_views(name)
        return self._json(router_page.router(self._source.state(), views))

    def _floating_ip(self, request: Request) -> Response:
        name = _name(request, "floating IP, by address or id")
        with self._counting:
            views = self._source.floating_ip_views(name)
        return self._json(router_page.floating_ip(self._source.state(), views))

    def _flows(self, request: Request) -> Response:
        counts = self._source.flow_counts()
        if not request.query.keys() & {"table", "limit"}:
            return self._json(answers.flows(counts))
        limit = request.query.get("limit", str(answers.MAX_FLOWS))
        if not (limit.isascii() and limit.isdigit()) or len(limit) > 9:
            raise InputError(f"limit: {limit!r} is not a number of flows")
        listed = self._source.flows()
        if table := request.query.get("table", ""):
            number = answers.table_number(table)
            listed = {key: actions for key, actions in listed.items() if answers.flow_table(key) == number}
        return self._json(answers.flows(counts, listed, int(limit)))

    def _plan(self, _request: Request) -> Response:
        # A plan reads the whole dataplane back: a second one at the same time would only delay the loop.
        if not self._planning.acquire(blocking=False):
            return self._retry("a plan is being made for another client; try again")
        try:
            return self._json(dict(self._source.plan(PLAN_SECONDS)))
        except TimeoutError:
            return self._retry(f"the reconcile loop had no time for a plan within {PLAN_SECONDS:g} s; try again")
        finally:
            self._planning.release()

    def _release_hold(self, _request: Request) -> Response:
        hold = self._source.state().hold
        if hold is None:
            return self._error(HTTPStatus.CONFLICT, "nothing is held")
        self._source.release_hold()
        return self._json({"released": {"revision": hold.revision, "text": hold.text}}, HTTPStatus.ACCEPTED)

    def _resync(self, _request: Request) -> Response:
        self._source.request_resync()
        return self._json({"resync": "requested"}, HTTPStatus.ACCEPTED)

    def _log_level(self, request: Request) -> Response:
        level = request.query.get("level") or _level_of(request.body)
        self._source.set_log_level(level)
        return self._json({"log_level": level})

    def _verdict(self, name: str, ok: bool, text: str) -> Response:
        return self._json({name: ok, "text": text}, HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)

    def _json(self, value: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK) -> Response:
        return Response(status, self._with_envelope(value))

    def _retry(self, text: str) -> Response:
        return self._error(HTTPStatus.SERVICE_UNAVAILABLE, text, Actor.NOBODY, {"Retry-After": "5"})

    def _error(
        self, status: HTTPStatus, text: str, actor: Actor = Actor.OPERATOR, headers: Mapping[str, str] | None = None
    ) -> Response:
        body = self._with_envelope({"error": text, "actor": actor.value})
        return Response(status, body, headers=headers or {})

    def _with_envelope(self, value: Mapping[str, object]) -> bytes:
        return json_body({**answers.envelope(self._source.state(), self._now()), **value})


def _name(request: Request, what: str) -> str:
    name = request.query.get("name", "")
    if not name:
        raise InputError(f"name: say which {what}")
    return name


def _level_of(body: bytes) -> str:
    try:
        level = json.loads(body)["level"]
    except (ValueError, KeyError, TypeError, RecursionError):
        level = None
    if not isinstance(level, str):
        raise InputError('log level: send {"level": "debug"} or ask for /log-level?level=debug')
    return level
