# SPDX-License-Identifier: Apache-2.0
"""A real responder in front of a metadata API that behaves, hangs, goes away and comes back, with and without TLS."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from agent.metadata.data import Limits, NovaData
from tests.functional.nova_stand_in import Nova, make_certificates
from tests.ovs.responder_lab import lab, put_dhcp, put_metadata, put_service, read_answer

HERE = Path("/proc/thread-self/ns/net")
SECRET = "shared"
ECHO = b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Instance-ID: other\r\n\r\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("nova")) as found:
        yield found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(place):
    return place.start(put_dhcp(1), put_metadata(1, nova=True), put_metadata(2, nova=True), put_metadata(3))


def use(running, url, **how):
    assert running.tell(put_service(NovaData(url, SECRET, **how), Limits(rate=0))) == [None]


def test_requests_are_signed_for_the_port_and_connections_are_kept(place, running):
    with Nova(HERE, SECRET) as nova:
        use(running, nova.url)
        with place.connect(1) as one, place.connect(2, version=6) as two:
            who = (one, "instance-1", "10.0.0.1"), (two, "instance-2", "2001:db8:1::2:5")
            for opened, instance, address in who * 5:
                opened.sendall(ECHO)
                status, body = read_answer(opened)
                said = json.loads(body)
                assert (status, said["x-instance-id"], said["x-forwarded-for"]) == (200, instance, address)
        assert nova.seen.connections == 1
        assert place.get(1, "/big/4194304") == (200, bytes(4194304))


def test_a_nova_that_is_away_is_said_to_be_so_and_found_again(place, running):
    with Nova(HERE, SECRET) as nova:
        use(running, nova.url)
        assert place.get(1, "/echo")[0] == 200
        nova.stop()
        assert place.get(1, "/echo")[0] == 503
        assert place.get(3) == (200, b"of port-3")
        nova.start()
        assert place.get(1, "/echo")[0] == 200
        nova.stop()  # the connection that is kept has been closed by Nova
        nova.start()
        assert place.get(1, "/echo")[0] == 200
    assert running.log.read_text().count("the metadata service answers again") == 1


@pytest.mark.alone
def test_a_nova_that_hangs_holds_up_nobody_who_does_not_need_it(place, running):
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)
        use(running, f"http://127.0.0.1:{hanging.getsockname()[1]}", timeout=1.0)
        answers: list[int] = []

        def ask(number):
            answers.append(place.get(number, "/echo")[0])

        threads = [threading.Thread(target=ask, args=(1 + index % 2,)) for index in range(30)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert place.get(3) == (200, b"of port-3")
        assert time.monotonic() - began < 1.0
        for thread in threads:
            thread.join()
    assert answers == [503] * 30
    assert time.monotonic() - began < 5.0


def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(place, running):
    with socket.socket() as short:
        short.bind(("127.0.0.1", 0))
        short.listen()
        use(running, f"http://127.0.0.1:{short.getsockname()[1]}")
        with place.connect(1) as asking:
            asking.sendall(ECHO)
            nova, _ = short.accept()
            nova.recv(65536)
            nova.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            nova.close()
            with pytest.raises(ConnectionResetError, match="4 of 100"):
                read_answer(asking)


def test_a_nova_with_tls_proves_itself_and_is_shown_who_we_are(place, running, certificates):
    pem = {"ca": certificates.authority, "certificate": certificates.client, "key": certificates.client_key}
    good = {name: path.read_text() for name, path in pem.items()}
    with Nova(HERE, SECRET, certificates) as nova:
        use(running, nova.url, **good)
        for _ in range(3):
            assert place.get(1, "/echo")[0] == 200
        assert nova.seen.connections == 1
        assert place.get(1, "/big/1000000") == (200, bytes(1000000))

        use(running, nova.url, **{**good, "ca": ""})  # the system's authorities do not know it
        assert place.get(1, "/echo")[0] == 503
        use(running, nova.url, **{**good, "ca": "", "insecure": True})
        assert place.get(1, "/echo")[0] == 200
        use(running, nova.url, ca=good["ca"])  # without a certificate of ours
        assert place.get(1, "/echo")[0] == 503
        use(running, nova.url.replace("127.0.0.1", "localhost"), **good)  # is not in its certificate
        assert place.get(1, "/echo")[0] == 503
        bad = put_service(NovaData(nova.url, SECRET, **{**good, "key": "no key"}))
        assert "certificates cannot be used" in str(running.tell(bad)[0])
    assert SECRET not in running.log.read_text()


def test_names_are_looked_up_while_others_are_served(place, running):
    with Nova(HERE, SECRET) as nova:
        use(running, nova.url.replace("127.0.0.1", "localhost"))
        assert place.get(1, "/echo")[0] == 200
        use(running, "http://nowhere.invalid:1", timeout=2.0)
        status, body = place.get(1, "/echo")
        assert (status, place.get(3)) == (503, (200, b"of port-3"))
        assert SECRET.encode() not in body
