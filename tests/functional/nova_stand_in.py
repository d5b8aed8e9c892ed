# SPDX-License-Identifier: Apache-2.0
"""What Nova's metadata API looks like from a host: it believes only what is signed with the shared secret.

Runs in the test, listens in a host's network namespace.  Paths besides Nova's: ``/echo``
answers with the headers that came, ``/big/N`` with N octets, ``/slow/S`` after S seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.namespace import inside

ADDRESS, PORT = "127.0.0.1", 8775
_OPENSSL_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM: who vouches for both sides, Nova's and the host's."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate of it for Nova (at 127.0.0.1) and for the host."""
    authority = _self_signed(folder, "authority")
    server = _signed(folder, "server", f"subjectAltName=IP:{ADDRESS}")
    client = _signed(folder, "client", "extendedKeyUsage=clientAuth")
    return Certificates(authority, server, folder / "server.key", client, folder / "client.key")


def _self_signed(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    words += ["-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(certificate)]
    _openssl(*words)
    return certificate


def _signed(folder: Path, name: str, extension: str) -> Path:
    key, request, certificate, extensions = (folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
    extensions.write_text(f"{extension}\n")
    words = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"]
    _openssl(*words, "-keyout", str(key), "-out", str(request))
    authority = ["-CA", str(folder / "authority.pem"), "-CAkey", str(folder / "authority.key"), "-CAcreateserial"]
    words = ["x509", "-req", "-in", str(request), *authority, "-days", "2", "-extfile", str(extensions)]
    _openssl(*words, "-out", str(certificate))
    return certificate


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=_OPENSSL_TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr


@dataclass(slots=True)
class Seen:
    """What has been asked."""

    requests: list[dict[str, object]] = field(default_factory=list)
    connections: int = 0
    codes: Counter[int] = field(default_factory=Counter)


class Nova:
    """The server; use it with ``with``.  It may be stopped and started again at the same address."""

    def __init__(self, namespace: Path, secret: str, certificates: Certificates | None = None) -> None:
        self.seen = Seen()
        self._namespace = namespace
        self._secret = secret.encode()
        self._certificates = certificates
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What the store is told."""
        return f"{'https' if self._certificates else 'http'}://{ADDRESS}:{PORT}"

    def start(self) -> None:
        """Listen; harmless when it does."""
        if self._server is not None:
            return
        with self._namespace.open("rb") as opened, inside(opened.fileno()):
            self._server = _Server(self.seen, self._secret, self._context())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.close_all()
            self._server = None

    def _context(self) -> ssl.SSLContext | None:
        if self._certificates is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificates.server, self._certificates.server_key)
        context.load_verify_locations(self._certificates.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, seen: Seen, secret: bytes, context: ssl.SSLContext | None) -> None:
        super().__init__((ADDRESS, PORT), _Handler)
        self.seen = seen
        self.secret = secret
        self._context = context
        self._open: set[object] = set()

    def finish_request(self, request: object, client_address: object) -> None:
        # In the connection's own thread: a slow handshake keeps nobody waiting.
        self.seen.connections += 1
        if self._context is not None:
            try:
                request = self._context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
            except OSError:
                return
        self._open.add(request)
        try:
            super().finish_request(request, client_address)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            self._open.discard(request)

    def close_all(self) -> None:
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(2)  # type: ignore[attr-defined]
                connection.close()  # type: ignore[attr-defined]
            except OSError:
                continue


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        names = [(name.lower(), value) for name, value in self.headers.items()]
        seen = self.server.seen
        seen.requests.append({"method": self.command, "path": self.path, "headers": names, "body": body.decode()})
        instance = self.headers.get("X-Instance-ID") or ""
        signature = hmac.new(self.server.secret, instance.encode(), hashlib.sha256).hexdigest()
        if not instance or not self.headers.get("X-Tenant-ID"):
            self._answer(400, b"X-Instance-ID or X-Tenant-ID is missing")
        elif not hmac.compare_digest(self.headers.get("X-Instance-ID-Signature") or "", signature):
            self._answer(403, b"the signature is wrong")
        else:
            self._answer(*self._content(instance, dict(names)))

    def _content(self, instance: str, headers: dict[str, str]) -> tuple[int, bytes]:
        _, word, *rest = self.path.split("/")
        if word == "echo":
            return 200, json.dumps(headers).encode()
        if word == "big":
            return 200, bytes(int(rest[0]))
        if word == "slow":
            time.sleep(float(rest[0]))
            return 200, instance.encode()
        if self.path.endswith(("instance-id", "meta_data.json")):
            return 200, json.dumps({"uuid": instance}).encode()
        return 404, b"Not Found"

    def _answer(self, code: int, body: bytes) -> None:
        self.server.seen.codes[code] += 1
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""
