# SPDX-License-Identifier: Apache-2.0
"""The command against a real ``ovsdb-server``: what it writes, prints, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from agent.cli.main import main
from agent.store.writer import Writer
from tests.servers import StoreServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-hosts.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str

    def json(self):
        assert self.status == 0, self.err
        return json.loads(self.out)


Hostplane = Callable[..., Outcome]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def hostplane(store: StoreServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hostplane:
    monkeypatch.setenv("HOSTPLANE_STORE", store.address)

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        status = main(list(words))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def test_objects_are_created_shown_changed_listed_and_deleted(hostplane: Hostplane) -> None:
    blue = hostplane("network", "create", "blue", "--type", "vxlan", "--segmentation-id", "77", "-o", "json").json()
    assert (blue["type"], blue["segmentation_id"], blue["mtu"]) == ("vxlan", 77, 1450)
    assert hostplane("subnet", "create", "blue4", "--network", "blue", "--cidr", "10.0.0.0/24").status == 0
    created = hostplane("port", "create", "vm1", "--network", "blue", "--fixed-ip", "10.0.0.9", "--host", "host1")
    assert created.status == 0
    assert "10.0.0.9" in created.out

    changed = hostplane("port", "set", "vm1", "--admin-state-down", "--host", "host2", "--name", "vm9")
    assert (changed.status, changed.out) == (0, "port vm9 changed\n")
    again = hostplane("port", "set", "vm9", "--admin-state-down")
    assert again.out == "port vm9 was so already\n"
    vm9 = hostplane("port", "show", "vm9", "-o", "json").json()
    assert (vm9["host"], vm9["admin_state_up"], vm9["network"]) == ("host2", False, blue["id"])
    assert yaml.safe_load(hostplane("port", "show", vm9["id"], "-o", "yaml").out) == vm9

    assert hostplane("port", "delete", "vm9").out == "port vm9 deleted\n"
    assert hostplane("port", "list", "-o", "json").json() == []
    empty = hostplane("port", "list")
    assert (empty.status, empty.out, empty.err) == (0, "", "hostplane: no ports\n")


def test_lists_can_be_cut_down(hostplane: Hostplane) -> None:
    hostplane("apply", "-f", str(EXAMPLE))

    def names(*words: str) -> list[str]:
        return [row["name"] for row in hostplane("port", "list", "-o", "json", *words).json()]

    assert names("--host", "host1") == ["blue1", "lan1", "red1"]
    assert names("--network", "red") == ["red1", "red2"]
    assert names("--network", "red", "--host", "host2") == ["red2"]
    table = hostplane("port", "list", "--network", "red").out.splitlines()
    assert table[0].split() == ["ID", "NAME", "NETWORK", "MAC", "ADDRESS", "FIXED", "IPS", "HOST", "UP"]
    assert table[1].split()[1:3] == ["red1", "red"]


def test_applying_the_example_twice_changes_nothing_the_second_time(hostplane: Hostplane) -> None:
    first = hostplane("apply", "-f", str(EXAMPLE))
    assert first.status == 0
    assert "network blue created" in first.out
    for project in ("blue", "red"):
        assert f"security group default of project {project} created\n" in first.out
    assert first.out.splitlines()[-1] == "15 created"
    second = hostplane("apply", "-f", str(EXAMPLE))
    assert (second.status, second.out) == (0, "nothing to change\n")


def test_a_dry_run_tells_and_writes_nothing(hostplane: Hostplane) -> None:
    told = hostplane("apply", "-f", str(EXAMPLE), "--dry-run")
    assert "port red2 to create" in told.out
    assert hostplane("network", "list", "-o", "json").json() == []


def test_changes_show_old_and_new_values(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan, mtu: 1400}\n")
    hostplane("apply", "-f", str(file))
    file.write_text("networks:\n  a: {type: vxlan, mtu: 1300}\n")
    assert hostplane("apply", "-f", str(file)).out == "network a changed\n  mtu: 1400 -> 1300\n1 changed\n"


def test_pruning_takes_only_what_the_set_made(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan}\n  b: {type: vxlan}\n")
    hostplane("network", "create", "mine", "--type", "vxlan")
    hostplane("apply", "-f", str(file), "--set", "lab")
    file.write_text("networks:\n  a: {type: vxlan}\n")
    assert "network b deleted" in hostplane("apply", "-f", str(file), "--set", "lab", "--prune").out
    assert [n["name"] for n in hostplane("network", "list", "-o", "json").json()] == ["a", "mine"]
    refused = hostplane("apply", "-f", str(file), "--prune")
    assert refused.status == 1
    assert "--prune needs --set NAME" in refused.err


def test_pruning_everything_must_be_meant(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("networks:\n  a: {type: vxlan}\n")
    prune = ("apply", "-f", str(file), "--set", "lab", "--prune")
    hostplane(*prune)
    file.write_text("# what the template should have written\n")
    refused = hostplane(*prune)
    assert refused.status == 1
    assert refused.err.startswith(f"hostplane: {file}: is empty, so --prune would delete all of set lab")
    assert len(hostplane("network", "list", "-o", "json").json()) == 1
    assert "network a to delete" in hostplane(*prune, "--dry-run").out
    assert "network a to delete" in hostplane(*prune, "--dry-run", "--yes").out
    file.write_text("networks: {}\n")
    assert "network a deleted" in hostplane(*prune).out


def test_what_the_writer_refuses_names_file_line_object_and_field(hostplane: Hostplane, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("networks:\n  blue: {type: vxlan}\n  red:\n    type: vxlan\n    segmentation_id: 17000000\n")
    refused = hostplane("apply", "-f", str(file))
    assert refused.status == 1
    assert refused.err == f"hostplane: {file}:3: network red: segmentation id 17000000 is outside 1..16777215\n"
    assert hostplane("network", "list", "-o", "json").json() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("network", "create", "a", "--type", "vxlan", "--segmentation-id", "0"), "network a: segmentation id 0 is"),
        (("network", "show", "nope"), "there is no network nope"),
        (("port", "create", "vm1", "--network", "nope"), "port vm1: "),
        (("port", "set", "vm1"), "port vm1: no field is given"),
        (("apply", "-f", "/nonexistent.yaml"), "/nonexistent.yaml: No such file or directory"),
        (("--store", "unix:/nonexistent", "port", "list"), "store unix:/nonexistent: cannot connect"),
        (("--store", "nonsense", "port", "list"), "store nonsense: not an address"),
        (("port", "list", "--ca-cert", "/x"), "store: --private-key and --certificate must be given as well"),
    ],
)
def test_errors_are_one_line_and_status_1(hostplane: Hostplane, words: tuple[str, ...], message: str) -> None:
    outcome = hostplane(*words)
    assert outcome.status == 1
    assert outcome.err.startswith(f"hostplane: {message}")
    assert outcome.err.count("\n") == 1


WEB = """
address_groups:
  office: [198.51.100.0/24, "2001:db8:f::/48"]
security_groups:
  web:
    - {direction: ingress, protocol: tcp, ports: "80,443"}
    - {direction: ingress, protocol: tcp, ports: 22, remote_address_group: office}
    - {direction: ingress, remote_group: web}
    - {direction: ingress, protocol: icmp, icmp_type: 8, ethertype: IPv4}
    - {direction: egress}
networks:
  blue: {type: vxlan}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24}
ports:
  vm1: {network: blue, host: host1, security_groups: [web]}
"""


@pytest.fixture
def web(hostplane: Hostplane, tmp_path: Path) -> Path:
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    assert hostplane("apply", "-f", str(file)).status == 0
    assert hostplane("apply", "-f", str(file)).out == "nothing to change\n"
    return file


def rules(hostplane: Hostplane, *words: str) -> list[list[str]]:
    """Return the rules as people see them: without group, id and description."""
    lines = hostplane("security-group-rule", "list", *words).out.splitlines()
    return sorted(line.split()[1:-2] for line in lines[1:])


@pytest.mark.usefixtures("web")
def test_a_security_group_is_shown_with_its_rules(hostplane: Hostplane) -> None:
    shown = hostplane("security-group", "show", "web").out.splitlines()
    assert any(line.split()[:5] == ["ingress", "IPv6", "tcp", "443", "anybody"] for line in shown)
    assert rules(hostplane, "web") == [
        ["egress", "IPv4", "any", "-", "anybody"],
        ["egress", "IPv6", "any", "-", "anybody"],
        ["ingress", "IPv4", "any", "-", "group", "web"],
        ["ingress", "IPv4", "icmp", "type", "8", "anybody"],
        ["ingress", "IPv4", "tcp", "22", "address", "group", "office"],
        ["ingress", "IPv4", "tcp", "443", "anybody"],
        ["ingress", "IPv4", "tcp", "80", "anybody"],
        ["ingress", "IPv6", "any", "-", "group", "web"],
        ["ingress", "IPv6", "tcp", "22", "address", "group", "office"],
        ["ingress", "IPv6", "tcp", "443", "anybody"],
        ["ingress", "IPv6", "tcp", "80", "anybody"],
    ]
    listed = hostplane("security-group", "list").out.splitlines()
    assert listed[0].split() == ["ID", "NAME", "STATEFUL", "RULES", "PROJECT", "DESCRIPTION"]
    assert listed[1].split()[1:] == ["web", "yes", "11", "-", "-"]


@pytest.mark.usefixtures("web")
def test_rules_come_and_go_one_by_one(hostplane: Hostplane) -> None:
    before = rules(hostplane, "web")
    words = ["--direction", "ingress", "--ethertype", "IPv4", "--protocol", "udp"]
    more = ["--ports", "53,5000-5010", "--remote-ip-prefix", "192.0.2.0/24", "-o", "json"]
    made = hostplane("security-group-rule", "create", "web", *words, *more).json()
    assert [(rule["port_range_min"], rule["port_range_max"]) for rule in made] == [(53, 53), (5000, 5010)]
    after = rules(hostplane, "web")
    assert [row for row in after if row not in before] == [
        ["ingress", "IPv4", "udp", "5000-5010", "192.0.2.0/24"],
        ["ingress", "IPv4", "udp", "53", "192.0.2.0/24"],
    ]
    again = hostplane("security-group-rule", "create", "web", *words, *more[:-2])
    assert (again.status, again.out) == (0, "such a rule is there already\n")
    gone = hostplane("security-group-rule", "delete", *(rule["id"] for rule in made))
    assert gone.out.splitlines() == [f"security group rule {rule['id']} deleted" for rule in made]
    assert rules(hostplane, "web") == before
    assert hostplane("security-group-rule", "delete", made[0]["id"]).status == 1


@pytest.mark.usefixtures("web")
def test_addresses_come_and_go_one_by_one(hostplane: Hostplane) -> None:
    assert hostplane("address-group", "add", "office", "192.0.2.9", "192.0.2.128/25").status == 0
    office = hostplane("address-group", "show", "office", "-o", "json").json()
    assert office["addresses"] == ["192.0.2.9", "192.0.2.128/25", "198.51.100.0/24", "2001:db8:f::/48"]
    assert hostplane("address-group", "add", "office", "192.0.2.9").out == "address group office was so already\n"
    assert hostplane("address-group", "remove", "office", "192.0.2.9").out == "address group office changed\n"
    assert hostplane("address-group", "list").out.splitlines()[1].split()[1:3] == ["office", "3"]
    assert hostplane("address-group", "delete", "office").status == 1  # a rule refers to it


@pytest.mark.usefixtures("web")
def test_a_port_says_which_filter_it_has(hostplane: Hostplane) -> None:
    def groups(*words: str) -> object:
        if words:
            hostplane("port", "set", "vm1", *words)
        return hostplane("port", "show", "vm1", "-o", "json").json()["security_groups"]

    assert groups() == ["web"]
    assert hostplane("port", "list", "--security-group", "web").out.splitlines()[1].split()[1] == "vm1"
    assert hostplane("port", "list", "--security-group", "other", "-o", "json").json() == []
    assert groups("--no-security-groups") == []
    assert groups("--no-filter") is None
    assert "not filtered" in hostplane("port", "show", "vm1").out
    assert groups("--security-group", "web") == ["web"]
    assert hostplane("security-group", "delete", "web").status == 1  # vm1 has it


def test_a_port_of_a_project_gets_its_default_group(hostplane: Hostplane) -> None:
    hostplane("apply", "-f", str(EXAMPLE))
    blue1 = hostplane("port", "show", "blue1", "-o", "json").json()
    assert blue1["security_groups"] == ["default"]
    assert hostplane("port", "show", "lan1", "-o", "json").json()["security_groups"] is None
    default = hostplane("security-group", "list", "--project", "blue", "-o", "json").json()
    assert [(group["name"], group["default"], len(group["rules"])) for group in default] == [("default", True, 4)]


def test_what_the_writer_refuses_of_a_group_names_line_group_and_rule(hostplane: Hostplane, web: Path) -> None:
    web.write_text(WEB.replace("ports: 22,", "ports: 23-22,"))
    refused = hostplane("apply", "-f", str(web))
    assert refused.status == 1
    assert refused.err.startswith(f"hostplane: {web}:7: security group web, rule 2: ports 23-22")
    refused = hostplane("security-group-rule", "create", "web", "--direction", "ingress", "--protocol", "tpc")
    assert refused.status == 1
    assert refused.err.startswith("hostplane: security group web: protocol 'tpc' is not one of ")


def announce(hostplane: Hostplane) -> None:
    """Let both hosts be known, as their agents would: nobody waits for a name that was never heard of."""
    for host in ("host1", "host2"):
        assert hostplane("host", "create", host).status == 0


def report(address: str, host: str, revision: int, down: dict[str, str]) -> None:
    """Write what *host*'s agent would: it has applied *revision*, and these ports are down because of that."""
    with Writer.connect([address]) as writer:
        ports = {port.name: port.id for port in writer.list_ports()}

        def build(session) -> None:
            generation = [session.global_row.generation]
            session.insert("Host_Status", host=host, version="1", generation=generation, applied_revision=revision)
            for name, reason in down.items():
                session.insert("Port_Status", port=ports[name], host=host, up=False, reason=reason, since=1)

        writer.write(build)


def test_wait_names_the_ports_that_failed_and_the_hosts_that_did_not_answer(
    hostplane: Hostplane, store: StoreServer, tmp_path: Path
) -> None:
    hostplane("apply", "-f", str(EXAMPLE))
    announce(hostplane)
    report(store.address, "host1", 100, {"blue1": "no interface names it yet"})
    failed = hostplane("port", "set", "blue1", "--mac-address", "fa:16:3e:00:00:77", "--wait", "--wait-timeout", "0.2")
    assert failed.status == 4  # host2 has ports on that network, too, and says nothing
    assert "hostplane: host host2: did not apply revision" in failed.err
    report(store.address, "host2", 100, {})
    failed = hostplane("port", "set", "blue1", "--no-filter", "--no-port-security", "--wait", "--wait-timeout", "5")
    assert failed.status == 3
    assert failed.err == "hostplane: port blue1: not up on host1: no interface names it yet\n"
    done = hostplane("port", "set", "red1", "--no-filter", "--no-port-security", "--wait", "--wait-timeout", "5")
    assert done.status == 0


def test_wait_returns_as_soon_as_the_hosts_have_applied(hostplane: Hostplane, store: StoreServer) -> None:
    hostplane("apply", "-f", str(EXAMPLE))
    announce(hostplane)
    report(store.address, "host1", 100, {})
    late = threading.Timer(0.3, report, (store.address, "host2", 100, {}))
    late.start()
    assert hostplane("port", "set", "blue1", "--mac-address", "fa:16:3e:00:00:77", "--wait").status == 0
    late.join()


SERVICES = """
networks:
  blue: {type: vxlan, dns_domain: blue.example}
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24, dns: [10.0.0.2], host_routes: [{destination: 10.9.0.0/16, nexthop: 10.0.0.9}]}
ports:
  vm1:
    network: blue
    hostname: web
    dhcp_options: {mtu: "1400", "option6:59": ""}
    metadata:
      ssh_keys: [ssh-rsa A]
      user_data: "#cloud-config"
      vendor_data: {cloud-init: "#!/bin/sh"}
      meta: {role: web}
metadata_service: {url: "http://192.0.2.1:8775", secret_file: /etc/hostplane/secret}
"""  # noqa: E501


@pytest.fixture
def services(hostplane: Hostplane, tmp_path: Path) -> Path:
    file = tmp_path / "services.yaml"
    file.write_text(SERVICES)
    assert hostplane("apply", "-f", str(file)).out.splitlines()[-2:] == ["port vm1 created", "4 created"]
    assert hostplane("apply", "-f", str(file)).out == "nothing to change\n"
    return file


@pytest.mark.usefixtures("services")
def test_what_instances_are_told_is_shown_as_a_file_has_it(hostplane: Hostplane) -> None:
    written = yaml.safe_load(SERVICES)
    for noun, name, section in (("subnet", "blue4", "subnets"), ("port", "vm1", "ports")):
        shown = hostplane(noun, "show", name, "-o", "json").json()
        for field in written[section][name].keys() - {"network"}:
            assert shown[field] == written[section][name][field]
    assert hostplane("subnet", "show", "blue4", "-o", "json").json()["server_address"] == "10.0.0.254"
    assert "10.9.0.0/16 via 10.0.0.9" in hostplane("subnet", "show", "blue4").out
    port = hostplane("port", "show", "vm1").out
    assert "user_data=(13 characters)" in port  # whatever is in it
    assert "cloud-config" not in port


def test_changed_user_data_are_not_poured_onto_the_terminal(hostplane: Hostplane, services: Path) -> None:
    services.write_text(SERVICES.replace("#cloud-config", "#cloud-config " + "x" * 1000))
    assert hostplane("apply", "-f", str(services)).out.splitlines()[:2] == [
        "port vm1 changed",
        "  metadata: meta:role=web, ssh_keys=(1), user_data=(13 characters), vendor_data=(26 characters)"
        " -> meta:role=web, ssh_keys=(1), user_data=(1014 characters), vendor_data=(26 characters)",
    ]


def test_the_metadata_service_is_named_changed_and_unset(hostplane: Hostplane) -> None:
    none = hostplane("metadata-service", "show")
    assert (none.status, none.out) == (0, "")
    assert none.err.startswith("hostplane: no metadata service")
    assert hostplane("metadata-service", "show", "-o", "json").out == "null\n"
    refused = hostplane("metadata-service", "set", "--url", "https://nova:8775")
    assert refused.status == 1
    assert refused.err.startswith("hostplane: metadata service: secret_file is required")
    assert hostplane("metadata-service", "set").status == 1
    named = hostplane("metadata-service", "set", "--url", "https://nova:8775", "--secret-file", "/etc/secret")
    assert (named.status, named.out) == (0, "metadata service changed\n")
    assert hostplane("metadata-service", "set", "--request-timeout", "5", "-o", "json").json()["timeout"] == 5
    shown = hostplane("metadata-service", "show", "-o", "json").json()
    assert (shown["url"], shown["secret_file"], shown["ca_file"]) == ("https://nova:8775", "/etc/secret", None)
    assert hostplane("metadata-service", "unset").out == "metadata service unset\n"
    assert hostplane("metadata-service", "unset").out == "there was no metadata service\n"


def test_a_set_takes_back_the_metadata_service_that_it_named(hostplane: Hostplane, services: Path) -> None:
    hostplane("metadata-service", "unset")
    assert "metadata service created\n" in hostplane("apply", "-f", str(services), "--set", "lab").out
    services.write_text(SERVICES.replace("192.0.2.1:8775", "192.0.2.2:8775"))
    changed = hostplane("apply", "-f", str(services), "--set", "lab", "--prune").out
    assert changed.startswith("metadata service changed\n  url: http://192.0.2.1:8775 -> http://192.0.2.2:8775\n")
    services.write_text(SERVICES.partition("metadata_service")[0])
    assert "metadata service deleted\n" in hostplane("apply", "-f", str(services), "--set", "lab", "--prune").out
    assert hostplane("metadata-service", "show", "-o", "json").out == "null\n"
