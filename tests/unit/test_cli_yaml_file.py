# SPDX-License-Identifier: Apache-2.0
"""The declarative file: what it means, and that every mistake names line, object and field."""

from __future__ import annotations

import pytest

from agent.cli.yaml_file import MAX_COMPLAINTS, parse_file
from agent.cli.yaml_tree import MAX_BYTES
from agent.core.errors import InputError
from agent.store.document import UNSET, FixedIpRequest, HostRoute, RuleFields, given


def parse(text: str):
    return parse_file(text.encode(), "f.yaml")


def complaints(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(text)
    return str(caught.value).splitlines()


def port_fields(text: str):
    return given(parse(f"ports:\n  vm1: {text}\n").ports[0].fields)


def test_the_issue_s_example_means_what_it_says() -> None:
    document = parse(
        """
networks:
  blue: {type: vxlan}
  lan:  {type: vlan, physnet: physnet1, segmentation_id: 100}
subnets:
  blue6: {network: blue, cidr: "2001:db8:1::/64", ipv6_mode: slaac}
ports:
  vm1: {network: blue, host: host1}
  vm2: {network: blue, host: host2, fixed_ips: [10.0.0.20]}
hosts:
  host1: {tunnel_address: 192.0.2.1, encapsulations: [vxlan], bridge_mappings: {physnet1: br-phy1}}
"""
    )
    assert [(entry.name, entry.line) for entry in document.networks] == [("blue", 3), ("lan", 4)]
    lan = document.networks[1].fields
    assert given(lan) == {"type": "vlan", "physnet": "physnet1", "segmentation_id": 100}
    assert lan.mtu is UNSET
    assert document.subnets[0].fields.ipv6_mode == "slaac"
    assert document.ports[1].fields.fixed_ips == (FixedIpRequest(address="10.0.0.20"),)
    assert document.hosts[0].fields.bridge_mappings == {"physnet1": "br-phy1"}
    assert document.hosts[0].fields.encapsulations == ("vxlan",)


SECURITY = """
address_groups:
  office: [198.51.100.0/24, "2001:db8:f::/48"]
  lab: {addresses: [192.0.2.1], project: red}
security_groups:
  web:
    - {direction: ingress, protocol: tcp, ports: "80,443"}
    - {direction: ingress, protocol: tcp, ports: 22, remote_address_group: office}
    - {direction: ingress, remote_group: web}
    - direction: egress
      protocol: icmp
      icmp_type: 8
      ethertype: null
  quiet: {stateful: false, rules: [], log: [accept, drop], log_rate: 10, log_burst: 5}
  usual:
ports:
  vm1: {network: blue, host: host1, security_groups: [web]}
  vm2: {network: blue, security_groups: []}
  vm3: {network: blue, security_groups: null}
"""


def test_security_groups_are_lists_of_rules_or_have_fields_of_their_own() -> None:
    document = parse(SECURITY)
    web, quiet, usual = document.security_groups
    assert given(web.fields) == {
        "rules": (
            RuleFields(direction="ingress", protocol="tcp", ports="80,443"),
            RuleFields(direction="ingress", protocol="tcp", ports="22", remote_address_group="office"),
            RuleFields(direction="ingress", remote_group="web"),
            RuleFields(direction="egress", protocol="icmp", icmp_type=8),
        )
    }
    assert [rule.line for rule in web.fields.rules] == [7, 8, 9, 10]
    assert given(quiet.fields) == {
        "stateful": False,
        "rules": (),
        "log": ("accept", "drop"),
        "log_rate": 10,
        "log_burst": 5,
    }
    assert given(usual.fields) == {}  # unlike a group without rules it lets everything out
    office, lab = document.address_groups
    assert given(office.fields) == {"addresses": ("198.51.100.0/24", "2001:db8:f::/48")}
    assert given(lab.fields) == {"addresses": ("192.0.2.1",), "project": "red"}
    assert [port.fields.security_groups for port in document.ports] == [("web",), (), None]


SERVICES = """
subnets:
  blue4: {network: blue, cidr: 10.0.0.0/24, dns: [10.0.0.2, 192.0.2.53], host_routes: [{destination: 10.9.0.0/16, nexthop: 10.0.0.9}]}
  blue6: {dns: [], host_routes: , server_address: "2001:db8::5"}
ports:
  vm1:
    hostname: web
    dhcp_options: {mtu: 1400, "tag:ipxe,bootfile-name": "http://192.0.2.1/a", "option6:59": ""}
    metadata:
      instance_id: i-1
      ssh_keys: ["ssh-rsa A a", "ssh-rsa B b"]
      user_data: |
        #cloud-config
        packages: [nginx]
      vendor_data: {cloud-init: "#!/bin/sh", on: true, "off": "false", n: 017, list: [1, 1.5, ~, no]}
      meta: {role: web, "a:b": yes}
  vm2: {metadata: {vendor_data: '"text"', user_data_base64: H4sA}}
  vm3: {metadata: {}, dhcp_options: , hostname: ''}
metadata_service:
  url: https://nova.example:8775
  secret_file: /etc/hostplane/secret
  ca_file: null
  timeout: 2.5
  insecure: true
"""  # noqa: E501


def test_what_instances_are_told_is_read_as_it_is_written() -> None:
    document = parse(SERVICES)
    blue4, blue6 = (given(entry.fields) for entry in document.subnets)
    assert blue4["dns"] == ("10.0.0.2", "192.0.2.53")
    assert blue4["host_routes"] == (HostRoute("10.9.0.0/16", "10.0.0.9"),)
    assert blue6 == {"dns": (), "host_routes": (), "server_address": "2001:db8::5"}
    vm1, vm2, vm3 = (given(entry.fields) for entry in document.ports)
    assert vm1["hostname"] == "web"
    assert vm1["dhcp_options"] == {"mtu": "1400", "tag:ipxe,bootfile-name": "http://192.0.2.1/a", "option6:59": ""}
    assert vm1["metadata"] == {
        "instance_id": "i-1",
        "ssh_keys": "ssh-rsa A a\nssh-rsa B b",
        "user_data": "#cloud-config\npackages: [nginx]\n",
        "vendor_data": '{"cloud-init":"#!/bin/sh","on":true,"off":"false","n":"017","list":[1,1.5,null,"no"]}',
        "meta:role": "web",
        "meta:a:b": "yes",
    }
    assert vm2 == {"metadata": {"vendor_data": '"text"', "user_data_base64": "H4sA"}}
    assert vm3 == {"metadata": {}, "dhcp_options": {}, "hostname": ""}
    service = document.metadata_service
    assert (service.line, given(service.fields)) == (
        19,
        {
            "url": "https://nova.example:8775",
            "secret_file": "/etc/hostplane/secret",
            "ca_file": None,
            "timeout": 2.5,
            "insecure": True,
        },
    )


@pytest.mark.parametrize("text", ["metadata_service:", "metadata_service: null"])
def test_a_metadata_service_without_fields_is_none(text: str) -> None:
    assert parse(text).metadata_service is None


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "networks:\n", "null\n"])
def test_an_empty_file_asks_for_nothing(text: str) -> None:
    document = parse(text)
    assert (document.networks, document.subnets, document.ports, document.hosts) == ((), (), (), ())


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        # YAML 1.1 reads each of these as something else than text: a number of base 60, booleans, a number.
        ("{mac_address: 52:54:00:12:34:56}", {"mac_address": "52:54:00:12:34:56"}),
        ("{network: no, host: on}", {"network": "no", "host": "on"}),
        ("{device_id: 0123}", {"device_id": "0123"}),
        ("{host: ''}", {"host": ""}),
        ("{fixed_ips: []}", {"fixed_ips": ()}),
        ("{fixed_ips: }", {"fixed_ips": ()}),
        (
            "{fixed_ips: [10.0.0.1, {subnet: a}, {subnet: a, address: 10.0.0.2}]}",
            {
                "fixed_ips": (
                    FixedIpRequest("10.0.0.1"),
                    FixedIpRequest(subnet="a"),
                    FixedIpRequest("10.0.0.2", "a"),
                )
            },
        ),
        (
            "{admin_state_up: false, port_security: Yes}",
            {"admin_state_up": False, "port_security": True},
        ),
        ("{external_ids: {a: 1, b: null-like}}", {"external_ids": {"a": "1", "b": "null-like"}}),
        ("", {}),
        ("{}", {}),
    ],
)
def test_values_have_the_type_of_their_field(text: str, fields: dict[str, object]) -> None:
    assert port_fields(text) == fields


def test_none_is_a_value_where_there_can_be_none() -> None:
    subnet = parse("subnets:\n  a: {gateway: null, cidr: 10.0.0.0/8}\n").subnets[0].fields
    assert given(subnet) == {"gateway": None, "cidr": "10.0.0.0/8"}


def test_anchors_and_merge_keys_spare_repetition_and_what_is_written_out_wins() -> None:
    document = parse(
        """
ports:
  vm1: &base {network: blue, host: host1, port_security: false}
  vm2: {<<: *base, host: host2}
  vm3:
    <<: [*base, {device_owner: lab}]
"""
    )
    assert given(document.ports[1].fields) == {"network": "blue", "host": "host2", "port_security": False}
    assert given(document.ports[2].fields)["device_owner"] == "lab"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "ports:\n  vm1: {hosst: a}",
            "f.yaml:2: port vm1: unknown key 'hosst'; did you mean 'host' or 'hostname'?",
        ),
        ("network:\n  a: {}", "f.yaml:1: unknown section 'network'; did you mean 'networks'?"),
        ("ports:\n  vm1:\n    port-security: false", "f.yaml:3: port vm1: unknown key 'port-security'; did you mean"),
        ("networks:\n  a: {mtu: big}", "f.yaml:2: network a: mtu: must be a whole number, not 'big'"),
        ("networks:\n  a: {mtu: 1.5}", "f.yaml:2: network a: mtu: must be a whole number, not '1.5'"),
        ("networks:\n  a: {mtu: }", "f.yaml:2: network a: mtu: a value is missing"),
        ("networks:\n  a: {external: maybe}", "f.yaml:2: network a: external: must be true or false, not 'maybe'"),
        ("ports:\n  vm1: {host: [a]}", "f.yaml:2: port vm1: host: must be text, not a list"),
        ("ports:\n  vm1: {fixed_ips: 10.0.0.1}", "f.yaml:2: port vm1: fixed_ips: must be a list, not '10.0.0.1'"),
        (
            "ports:\n  vm1:\n    fixed_ips:\n    - {sub: a}",
            "f.yaml:4: port vm1: fixed_ips: unknown key 'sub'; did you mean 'subnet'?",
        ),
        ("ports:\n  vm1: {external_ids: [a]}", "f.yaml:2: port vm1: external_ids: must be a mapping, not a list"),
        (
            "subnets:\n  a: {host_routes: [10.0.0.0/8]}",
            "f.yaml:2: subnet a: host_routes: must be a mapping, not '10.0.0.0/8'",
        ),
        (
            "subnets:\n  a:\n    host_routes:\n    - {destination: 10.0.0.0/8}",
            "f.yaml:4: subnet a: host_routes: nexthop is missing; write {destination: CIDR, nexthop: ADDRESS}",
        ),
        (
            "subnets:\n  a: {host_routes: [{destination: 10.0.0.0/8, gateway: 10.0.0.1}]}",
            "f.yaml:2: subnet a: host_routes: unknown key 'gateway' (known: destination, nexthop)",
        ),
        ("ports:\n  a: {metadata: [x]}", "f.yaml:2: port a: metadata: must be a mapping, not a list"),
        (
            "ports:\n  a:\n    metadata:\n      userdata: x",
            "f.yaml:4: port a: metadata: unknown key 'userdata'; did you mean 'user_data'",
        ),
        ("ports:\n  a: {metadata: {ssh_keys: ssh-rsa}}", "f.yaml:2: port a: metadata: must be a list, not 'ssh-rsa'"),
        ("ports:\n  a: {metadata: {user_data: }}", "f.yaml:2: port a: metadata: must be text, not nothing"),
        ("ports:\n  a: {metadata: {meta: {b: [c]}}}", "f.yaml:2: port a: metadata: must be text, not a list"),
        ("metadata_service: [a]", "f.yaml:1: metadata_service: fields belong here, not a list"),
        (
            "metadata_service: {urls: http://a}",
            "f.yaml:1: metadata service: unknown key 'urls'; did you mean 'url'?",
        ),
        ("metadata_service: {timeout: long}", "f.yaml:1: metadata service: timeout: must be a number, not 'long'"),
        ("ports:\n  vm1: 7", "f.yaml:2: port vm1: fields belong here, not '7'"),
        ("ports: [a]", "f.yaml:1: ports: names and their fields belong here, not a list"),
        ("- a", "f.yaml:1: a file has sections (networks, subnets, ports, hosts, "),
        (
            "security_groups:\n  web:\n  - {direction: ingress}\n  - {direction: ingress, prot: tcp}",
            "f.yaml:4: security group web, rule 2: unknown key 'prot'; did you mean",
        ),
        (
            "security_groups:\n  web: {rules: [{direction: ingress, protocol: tcp, ports: 80,443}]}",
            "f.yaml:2: security group web, rule 1: unknown key '443'; a value with commas needs quotes around it",
        ),
        (
            "security_groups:\n  web: [{direction: egress, ports: [80, 443]}]",
            "f.yaml:2: security group web, rule 1: ports: must be text, not a list",
        ),
        (
            "security_groups:\n  web: [{direction: egress, icmp_type: echo}]",
            "f.yaml:2: security group web, rule 1: icmp_type: must be a whole number, not 'echo'",
        ),
        (
            "security_groups:\n  web: [{direction: egress}, tcp]",
            "f.yaml:2: security group web, rule 2: keys and values belong here, not 'tcp'",
        ),
        (
            "security_groups:\n  web: {rules: {direction: egress}}",
            "f.yaml:2: security group web: rules: must be a list, not a mapping",
        ),
        (
            "security_groups: [web]",
            "f.yaml:1: security_groups: names and their fields belong here, not a list",
        ),
        ("address_groups:\n  a: [{x: y}]", "f.yaml:2: address group a: addresses: must be text, not a mapping"),
        ("networks:\n  a: [b]", "f.yaml:2: network a: fields belong here, not a list"),
        (
            "ports:\n  vm1:\n    security_groups:",
            "f.yaml:3: port vm1: security_groups: a value is missing; write [...], [] or null",
        ),
        (f"ports:\n  {'n' * 256}: {{}}", "f.yaml:2: ports: a name has 1 to 255 characters"),
        ("ports:\n  vm1: {host: a, host: b}", "f.yaml:2: the key 'host' stands here again (first in line 2)"),
        ("ports:\n  vm1: {}\n  vm1: {}", "f.yaml:3: the key 'vm1' stands here again (first in line 2)"),
        ("ports:\n  vm1: {host: a", "f.yaml:2: not valid YAML: "),
        ("ports:\n\tvm1: {}", "f.yaml:2: not valid YAML: "),
        ("ports: !!python/object:os.system {}", "f.yaml:1: the tag tag:yaml.org,2002:python/object:os.system"),
        ("a: *b", "f.yaml:1: the alias *b has no anchor &b before it"),
        ("a: &a [*a]", "f.yaml:1: the alias *a has no anchor &a before it"),
        ("a: 1\n---\nb: 1", "f.yaml:2: a second document starts here"),
        ("[" * 5000, "f.yaml:1: nested deeper than 16 levels"),
    ],
)
def test_mistakes_name_line_object_and_field(text: str, complaint: str) -> None:
    found = complaints(text)
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_all_mistakes_are_told_at_once_up_to_a_bound() -> None:
    text = "ports:\n" + "".join(f"  vm{number}: {{hosst: a}}\n" for number in range(30))
    found = complaints(text)
    assert len(found) == MAX_COMPLAINTS + 1
    assert found[0].startswith("f.yaml:2: port vm0: ")
    assert found[-1] == "f.yaml: 10 more mistakes"


def test_what_is_not_text_is_told_with_its_line() -> None:
    with pytest.raises(InputError, match=r"f\.yaml:2: the file is not UTF-8 text"):
        parse_file(b"a:\n \xff", "f.yaml")
    with pytest.raises(InputError, match=r"f\.yaml:2: not valid YAML"):
        parse_file(b"a:\n \x01", "f.yaml")


def test_bombs_are_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for number in range(12):
        before, name = ("a", *"bcdefghijklmn")[number], "bcdefghijklmn"[number]
        lines.append(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]")
    assert "values, aliases followed" in complaints("\n".join(lines))[0]
    assert "more than 10000 aliases" in complaints("a: &a x\nb: [" + "*a," * 10001 + "]")[0]
    with pytest.raises(InputError, match="bytes are more than"):
        parse_file(b"#" * (MAX_BYTES + 1), "f.yaml")
