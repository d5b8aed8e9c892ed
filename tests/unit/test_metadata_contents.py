# SPDX-License-Identifier: Apache-2.0
"""What an instance is told from the store, on the paths that cloud-init and its like ask for."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from agent.metadata.data import ContentData
from tests.unit.metadata_client import CONTENT, PORT, Client, read_reply, request

EMPTY = replace(PORT, content=ContentData(), addresses=())


def test_openstack_versions_are_those_of_nova():
    assert Client().get("/openstack").lines == [
        *("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06"),
        *("2017-02-22", "2018-08-27", "2020-10-14", "latest"),
    ]


@pytest.mark.parametrize(
    ("version", "there"),
    [
        ("2012-08-10", "meta_data.json user_data"),
        ("2013-04-04", "meta_data.json user_data password"),
        ("2013-10-17", "meta_data.json user_data password vendor_data.json"),
        ("2015-10-15", "meta_data.json user_data password vendor_data.json network_data.json"),
        ("latest", "meta_data.json user_data password vendor_data.json network_data.json vendor_data2.json"),
    ],
)
def test_each_version_lists_and_has_its_files_and_no_others(version, there):
    client = Client()

    assert client.get(f"/openstack/{version}/").lines == there.split()
    for name in [
        "meta_data.json",
        "user_data",
        "password",
        "vendor_data.json",
        "network_data.json",
        "vendor_data2.json",
    ]:
        assert client.get(f"/openstack/{version}/{name}").status == (200 if name in there.split() else 404)


def test_meta_data_says_who_the_instance_is():
    found = Client().get("/openstack/2018-08-27/meta_data.json")

    assert found.headers["content-type"] == "application/json"
    assert len(base64.b64decode(found.json["random_seed"])) == 512
    assert {key: value for key, value in found.json.items() if key != "random_seed"} == {
        "uuid": PORT.instance_id,
        "name": "web-1",
        "hostname": "web.example.org",
        "launch_index": 0,
        "availability_zone": "az1",
        "project_id": "tenant-a",
        "devices": [],
        "meta": {"role": "front"},
        "public_keys": {"key0": "ssh-ed25519 AAAAC3 me@home", "key1": "ssh-rsa AAAAB3 backup"},
        "keys": [
            {"name": "key0", "type": "ssh", "data": "ssh-ed25519 AAAAC3 me@home"},
            {"name": "key1", "type": "ssh", "data": "ssh-rsa AAAAB3 backup"},
        ],
    }


def test_old_versions_say_less():
    found = Client().get("/openstack/2012-08-10/meta_data.json").json

    assert not {"random_seed", "project_id", "devices"} & found.keys()


def test_no_two_answers_have_the_same_seed():
    client = Client()
    seeds = {client.get("/openstack/latest/meta_data.json").json["random_seed"] for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("path", ["/openstack/latest/user_data", "/latest/user-data", "/2009-04-04/user-data"])
def test_user_data_are_the_octets_that_were_given(path):
    big = bytes(range(256)) * 1024
    client = Client(replace(PORT, content=replace(CONTENT, user_data=big)))

    assert client.get(path).body == big
    assert client.get(path, "HEAD").headers["content-length"] == str(len(big))


def test_vendor_data_and_network_data_are_passed_as_they_are():
    client = Client()
    assert client.get("/openstack/latest/vendor_data.json").json == {"cloud-init": "#cloud-config\n"}
    assert client.get("/openstack/latest/vendor_data2.json").json == {}
    assert client.get("/openstack/latest/network_data.json").json == json.loads(CONTENT.network_data)


def test_of_an_instance_that_nothing_is_said_of_there_is_what_follows_from_its_port():
    client = Client(EMPTY)

    assert client.get("/openstack/latest").lines == [
        "meta_data.json",
        "password",
        "vendor_data.json",
        "vendor_data2.json",
    ]
    assert client.get("/openstack/latest/user_data").status == 404
    assert client.get("/openstack/latest/meta_data.json").json["uuid"] == PORT.instance_id
    assert client.get("/latest/").lines == ["meta-data/"]
    assert client.get("/latest/meta-data/").lines == ["ami-launch-index", "instance-action", "instance-id"]


def test_ec2_versions_are_those_of_nova():
    versions = Client().get("/").lines
    assert (versions[0], versions[-2], versions[-1]) == ("1.0", "2009-04-04", "latest")
    assert Client().get("/ec2").lines == versions


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("instance-id", PORT.instance_id),
        ("hostname", "web.example.org"),
        ("local-hostname", "web.example.org"),
        ("local-ipv4", "10.0.0.5"),
        ("instance-type", "m1.small"),
        ("placement/", "availability-zone"),
        ("placement/availability-zone", "az1"),
        ("public-keys/", "0=key0\n1=key1"),
        ("public-keys/1", "openssh-key"),
        ("public-keys/1/", "openssh-key"),
        ("public-keys/1/openssh-key", "ssh-rsa AAAAB3 backup"),
    ],
)
@pytest.mark.parametrize("root", ["/latest", "/2009-04-04", "/ec2/latest", "//latest/"])
def test_ec2_paths(root, path, body):
    found = Client().get(f"{root}/meta-data/{path}")
    assert (found.status, found.body.decode()) == (200, body)


def test_a_slash_marks_what_can_be_descended_into():
    assert Client().get("/latest/meta-data").lines == [
        *("ami-launch-index", "hostname", "instance-action", "instance-id", "instance-type", "local-hostname"),
        *("local-ipv4", "placement/", "public-hostname", "public-keys/"),
    ]
    assert Client().get("/1.0/meta-data/").lines == [
        *("ami-launch-index", "hostname", "instance-id", "local-ipv4", "public-keys/"),
    ]


def test_a_crawler_that_follows_the_listings_finds_all_of_it():
    """As cloud-init does: a line with a slash is a directory, ``N=name`` a key, anything else a value."""
    client = Client()

    def crawl(path):
        found = {}
        for line in client.get(path).lines:
            if line.endswith("/"):
                found[line[:-1]] = crawl(path + line)
            elif "=" in line:
                number, name = line.split("=")
                found[name] = client.get(f"{path}{number}/openssh-key").body.decode()
            else:
                found[line] = client.get(path + line).body.decode()
        return found

    tree = crawl("/2009-04-04/meta-data/")

    assert tree["public-keys"] == {"key0": "ssh-ed25519 AAAAC3 me@home", "key1": "ssh-rsa AAAAB3 backup"}
    assert tree["placement"] == {"availability-zone": "az1"}
    assert tree["instance-id"] == PORT.instance_id
    assert client.closed is None


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/latest/dynamic", "/latest/meta-data/nothing", "/latest/meta-data/hostname/more"),
        *("/2021-03-23/meta-data/instance-id", "/openstack/content/0000", "/openstack/1.0", "/openstack/latest/x"),
        *("/openstack/latest/user_data/x", "/latest/meta-data/public-keys/2", "/latest/meta-data/public-keys/0/x"),
        *("/latest/user-data/x", "/LATEST", "/openstack/latest/meta_data.json%20", "/latest/meta-data/public-keys/-1"),
    ],
)
def test_what_is_not_there_is_not_found_and_the_connection_goes_on(path):
    client = Client()
    assert client.get(path).status == 404
    assert client.get("/latest/meta-data/instance-id").status == 200


def test_a_query_changes_nothing():
    assert Client().get("/latest/meta-data/instance-id?x=../../y").body == PORT.instance_id.encode()


def test_an_encoded_path_is_the_same_path():
    assert Client().get("/lat%65st/meta%2Ddata/instance-id").body == PORT.instance_id.encode()


def test_a_port_that_is_gone_is_told_so():
    client = Client()
    assert client.get("/latest/meta-data/instance-id").status == 200
    client.port = None
    assert client.get("/latest/meta-data/instance-id").status == 404


def test_new_data_hold_from_the_next_request_on():
    client = Client()
    client.port = replace(PORT, content=replace(CONTENT, fqdn="new.example.org"))
    assert client.get("/latest/meta-data/hostname").body == b"new.example.org"


class TestToken:
    """Version 2 of EC2's protocol: a token first, which then travels with each request."""

    TTL = "X-aws-ec2-metadata-token-ttl-seconds"

    def test_a_client_that_insists_gets_one(self):
        client = Client()
        token = client.get("/latest/api/token", "PUT", [f"{self.TTL}: 21600", "Content-Length: 0"])

        assert (token.status, token.headers[self.TTL.lower()]) == (200, "21600")
        assert len(token.body) == 32
        given = f"X-aws-ec2-metadata-token: {token.body.decode()}"
        assert client.get("/latest/meta-data/instance-id", headers=[given]).status == 200

    @pytest.mark.parametrize("seconds", ["", "0", "21601", "-1", "x", "1" * 30])
    def test_times_that_ec2_does_not_know_are_refused(self, seconds):
        assert Client().get("/latest/api/token", "PUT", [f"{self.TTL}: {seconds}"]).status == 400

    def test_it_is_put_and_not_got(self):
        found = Client().get("/latest/api/token")
        assert (found.status, found.headers["allow"]) == (405, "PUT")

    def test_no_token_and_a_wrong_one_change_nothing(self):
        answers = {
            Client().get("/latest/meta-data/instance-id", headers=h).body for h in ([], ["X-aws-ec2-metadata-token: x"])
        }
        assert len(answers) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "CONNECT"])
def test_what_is_there_is_for_reading(method):
    client = Client()
    found = client.get("/openstack/latest/password", method)

    assert (found.status, found.headers["allow"]) == (405, "GET, HEAD")
    assert client.get("/openstack/latest/password").status == 200


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::a9fe:a9fe%25eth0]", "[fe80::a9fe:a9fe]:80", "evil.example", ""]
)
def test_whatever_host_a_client_thinks_it_asks_it_is_this_one(host):
    octets = f"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert read_reply(Client().say(octets))[0].body == PORT.instance_id.encode()


def test_nothing_that_a_request_says_of_its_sender_counts():
    claims = [
        *("X-Forwarded-For: 10.0.0.99", "Forwarded: for=10.0.0.99", "X-Instance-ID: other", "X-Real-IP: 10.0.0.99"),
        *("X-Tenant-ID: other", "X-Neutron-Network-ID: other", "X-OVN-Network-ID: other", "Via: 1.1 x"),
    ]
    plain, claiming = (Client().say(request("/latest/meta-data/", headers=h)) for h in ([], claims))
    assert plain == claiming
