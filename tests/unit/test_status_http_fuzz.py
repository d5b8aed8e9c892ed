# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a client sends: an answer that is HTTP or none, never a bug, never a thread that stays."""

import json
import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from agent.status import httpd

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"get", b""])
TARGETS = st.one_of(
    st.sampled_from([b"/status", b"/%ff%00", b"/?a=b&&=%", b"//[", b"*", b"http://x/"]), st.binary(max_size=20)
)
HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Content-Length: 3", b"Content-Length: 9", b"Content-Length:", b"Expect: 100-continue", b"X"]
        ),
        st.binary(max_size=20),
    ),
    max_size=4,
)
REQUESTS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda method, target, headers, body: b"\r\n".join(
            [method + b" " + target + b" HTTP/1.1", *headers, b"", body]
        ),
        METHODS,
        TARGETS,
        HEADERS,
        st.binary(max_size=12),
    ),
)


def echo(request):
    return httpd.Response(200, httpd.json_body({"path": request.path, "query": dict(request.query)}))


def error(status, text):
    return httpd.json_body({"error": text})


@given(REQUESTS)
def test_any_bytes_get_an_answer_or_are_dropped(data):
    ours, theirs = socket.socketpair()
    slots = threading.BoundedSemaphore(1)
    slots.acquire()
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        httpd._serve(ours, httpd.Listener(ours, echo, error, slots))
        answer = b""
        while chunk := theirs.recv(65536):
            answer += chunk
    assert slots.acquire(blocking=False)  # the place is free again
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) in {200, 400, 405, 411, 413, 431}
        if body:
            json.loads(body)
