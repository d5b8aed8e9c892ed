# SPDX-License-Identifier: Apache-2.0
"""Declarative documents: what they create, change and prune, in one transaction or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.store.document import (
    AddressGroupFields,
    Document,
    Entry,
    FixedIpRequest,
    HostFields,
    NetworkFields,
    PortFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
)
from agent.store.records import Change, FieldChange
from agent.store.writer import Writer
from agent.store.writer_records import rule_text
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

NETWORKS = (
    Entry("blue", NetworkFields(type="vxlan"), 2),
    Entry("lan", NetworkFields(type="vlan", physnet="physnet1", segmentation_id=100), 3),
)
SUBNETS = (
    Entry("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"), 5),
    Entry("blue6", SubnetFields(network="blue", cidr="2001:db8:1::/64", ipv6_mode="slaac"), 6),
)
VM1 = Entry("vm1", PortFields(network="blue", host="host1"), 8)
VM2 = Entry("vm2", PortFields(network="blue", host="host2", fixed_ips=(FixedIpRequest("10.0.0.20"),)), 9)
EXAMPLE = Document(NETWORKS, SUBNETS, (VM1, VM2))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        yield writer
        assert_consistent(writer)


def verbs(changes: tuple[Change, ...]) -> list[str]:
    return [f"{change.verb} {change.kind} {change.name}" for change in changes]


def addresses(writer: Writer, port: str) -> list[str]:
    return [fixed_ip.address for fixed_ip in writer.get_port(port).fixed_ips]


def wished(*wishes: str) -> tuple[FixedIpRequest, ...]:
    return tuple(FixedIpRequest(address) for address in wishes)


def test_a_document_is_one_revision_and_the_same_again_is_none(writer: Writer) -> None:
    written = writer.apply(EXAMPLE)
    assert verbs(written.result) == [
        "create network lan",
        "create network blue",
        "create subnet blue4",
        "create subnet blue6",
        "create port vm1",
        "create port vm2",
    ]
    assert (written.revision, written.changed) == (1, True)
    assert written.hosts == {"host1", "host2"}
    assert written.ports == {port.id for port in writer.list_ports()}
    assert addresses(writer, "vm1")[0] == "10.0.0.2"
    assert [len(addresses(writer, name)) for name in ("vm1", "vm2")] == [2, 2]
    again = writer.apply(EXAMPLE)
    assert (again.result, again.revision, again.changed) == ((), 1, False)


def test_only_fields_that_are_given_change(writer: Writer) -> None:
    writer.create_host("host1", HostFields())
    writer.apply(EXAMPLE)
    writer.set_port("vm1", PortFields(device_owner="compute:nova"))
    moved = Document(ports=(Entry("vm1", PortFields(host="host3")), Entry("vm2", PortFields(admin_state_up=False))))
    written = writer.apply(moved)
    assert written.result == (
        Change("port", "vm1", "change", (FieldChange("host", "host1", "host3"),)),
        Change("port", "vm2", "change", (FieldChange("admin_state_up", True, False),)),
    )
    assert written.hosts == {"host1", "host2", "host3"}
    assert writer.get_port("vm1").device_owner == "compute:nova"


def test_a_dry_run_tells_what_apply_would_do_and_writes_nothing(writer: Writer) -> None:
    planned = writer.apply(EXAMPLE, dry_run=True)
    assert writer.list_networks() == []
    assert (planned.revision, planned.changed) == (0, False)
    assert planned.result == writer.difference(EXAMPLE) == writer.apply(EXAMPLE).result
    changed = Document(networks=(Entry("blue", NetworkFields(mtu=1400)),), ports=(Entry("vm9", PortFields("blue")),))
    before = writer.revision()
    assert writer.difference(changed) == (
        Change("network", "blue", "change", (FieldChange("mtu", 1450, 1400),)),
        Change("port", "vm9", "create", (FieldChange("network", None, "blue"),)),
    )
    assert writer.revision() == before
    assert [port.name for port in writer.list_ports()] == ["vm1", "vm2"]
    assert verbs(writer.apply(changed).result) == ["change network blue", "create port vm9"]


def test_a_mistake_anywhere_leaves_everything_as_it_was(writer: Writer) -> None:
    wrong = Document(NETWORKS, SUBNETS, (VM1, Entry("vm2", PortFields(network="bleu"), 12)))
    with pytest.raises(InputError, match="line 12: port vm2: there is no network bleu"):
        writer.apply(wrong)
    assert writer.list_networks() == []
    assert writer.revision() == ("", 0)
    with pytest.raises(InputError, match="line 7: network blue: it is in the document twice"):
        writer.apply(Document(networks=(*NETWORKS, Entry("blue", NetworkFields(type="local"), 7))))


def test_wished_addresses_and_segments_are_not_given_to_those_before(writer: Writer) -> None:
    document = Document(
        networks=(
            Entry("any", NetworkFields(type="vxlan")),
            Entry("first", NetworkFields(type="vxlan", segmentation_id=1)),
        ),
        subnets=(Entry("s", SubnetFields(network="any", cidr="10.0.0.0/24")),),
        ports=(
            Entry("a", PortFields(network="any")),
            Entry("b", PortFields(network="any", fixed_ips=wished("10.0.0.2"))),
        ),
    )
    writer.apply(document)
    assert writer.get_network("any").segmentation_id == 2
    assert (addresses(writer, "a"), addresses(writer, "b")) == (["10.0.0.3"], ["10.0.0.2"])
    assert not writer.apply(document).changed


def test_two_ports_swap_their_addresses(writer: Writer) -> None:
    def document(first: str, second: str) -> Document:
        return Document(
            networks=(Entry("n", NetworkFields(type="vxlan")),),
            subnets=(Entry("s", SubnetFields(network="n", cidr="10.0.0.0/24")),),
            ports=(
                Entry("a", PortFields(network="n", fixed_ips=wished(first))),
                Entry("b", PortFields(network="n", fixed_ips=wished(second))),
            ),
        )

    writer.apply(document("10.0.0.10", "10.0.0.11"))
    assert writer.apply(document("10.0.0.11", "10.0.0.10")).result == (
        Change("port", "a", "change", (FieldChange("fixed_ips", ("10.0.0.10",), ("10.0.0.11",)),)),
        Change("port", "b", "change", (FieldChange("fixed_ips", ("10.0.0.11",), ("10.0.0.10",)),)),
    )
    assert (addresses(writer, "a"), addresses(writer, "b")) == (["10.0.0.11"], ["10.0.0.10"])
    with pytest.raises(InputError, match=r"fixed ip 10\.0\.0\.12 is in use by port"):
        writer.apply(document("10.0.0.12", "10.0.0.12"))


def test_an_unaddressed_port_stays_so(writer: Writer) -> None:
    document = Document(NETWORKS, SUBNETS, (Entry("bare", PortFields(network="blue", fixed_ips=())),))
    writer.apply(document)
    assert addresses(writer, "bare") == []
    assert not writer.apply(document).changed


def test_prune_removes_what_the_set_made_and_nothing_else(writer: Writer) -> None:
    writer.create_host("host1", HostFields())
    writer.create_network("mine", NetworkFields(type="vxlan"))
    writer.create_port("by-hand", PortFields(network="mine"))
    writer.apply(Document(networks=(Entry("other", NetworkFields(type="vxlan")),)), set_name="two")
    writer.apply(EXAMPLE, set_name="one")
    smaller = Document(NETWORKS[:1], SUBNETS[:1], (VM2,))
    assert not writer.apply(smaller, set_name="one").changed
    # vm2 loses the automatic address that it had from blue6.
    expected = ["delete port vm1", "delete subnet blue6", "delete network lan", "change port vm2"]
    assert verbs(writer.difference(smaller, "one", prune=True)) == expected
    written = writer.apply(smaller, set_name="one", prune=True)
    assert verbs(written.result) == expected
    assert "host1" in written.hosts
    assert [network.name for network in writer.list_networks()] == ["blue", "mine", "other"]
    assert [port.name for port in writer.list_ports()] == ["by-hand", "vm2"]
    assert addresses(writer, "vm2") == ["10.0.0.20"]
    assert not writer.apply(smaller, set_name="one", prune=True).changed


def test_what_was_there_before_is_changed_but_never_pruned(writer: Writer) -> None:
    writer.create_network("blue", NetworkFields(type="vxlan"))
    writer.apply(Document(networks=(Entry("blue", NetworkFields(mtu=1400)),)), set_name="one")
    assert writer.get_network("blue").mtu == 1400
    assert writer.apply(Document(), set_name="one", prune=True).result == ()


def test_pruning_frees_names_segments_prefixes_and_addresses_for_the_same_document(writer: Writer) -> None:
    def document(name: str) -> Document:
        return Document(
            networks=(
                Entry("lan", NetworkFields(type="vlan", physnet="p")),
                Entry(f"{name}-net", NetworkFields(type="vlan", physnet="p", segmentation_id=100)),
            ),
            subnets=(Entry(f"{name}-sub", SubnetFields(network="lan", cidr="10.0.0.0/24")),),
            ports=(Entry(f"{name}-port", PortFields(network="lan", fixed_ips=wished("10.0.0.9"))),),
        )

    writer.apply(document("old"), set_name="one")
    assert verbs(writer.apply(document("new"), set_name="one", prune=True).result) == [
        "delete port old-port",
        "delete subnet old-sub",
        "delete network old-net",
        "create network new-net",
        "create subnet new-sub",
        "create port new-port",
    ]
    assert addresses(writer, "new-port") == ["10.0.0.9"]


def test_pruning_what_others_use_is_refused(writer: Writer) -> None:
    writer.apply(EXAMPLE, set_name="one")
    writer.create_port("by-hand", PortFields(network="blue"))
    with pytest.raises(InputError, match="it is in use by port by-hand"):
        writer.apply(Document(), set_name="one", prune=True)
    assert len(writer.list_ports()) == 3
    with pytest.raises(InputError, match="prune needs the name of a set"):
        writer.apply(EXAMPLE, prune=True)


def test_hosts_can_be_declared(writer: Writer) -> None:
    document = Document(
        hosts=(Entry("host1", HostFields(tunnel_address="192.0.2.1", bridge_mappings={"p": "br-p"}), 2),)
    )
    assert verbs(writer.apply(document, set_name="one").result) == ["create host host1"]
    assert not writer.apply(document, set_name="one").changed
    assert verbs(writer.apply(Document(), set_name="one", prune=True).result) == ["delete host host1"]


def test_a_name_that_several_have_is_refused(writer: Writer) -> None:
    for _ in range(2):
        writer.create_network("blue", NetworkFields(type="vxlan"), claim_name=False)
    with pytest.raises(InputError, match="line 2: network blue: 2 networks have this name"):
        writer.apply(EXAMPLE)


# Groups

WEB = (
    RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports="80,443", line=12),
    RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports=22, remote_address_group="office", line=13),
    RuleFields(direction="ingress", ethertype="IPv4", remote_group="db", line=14),
)
DB = (RuleFields(direction="ingress", ethertype="IPv4", remote_group="web", line=16),)
FILTERED = Document(
    networks=NETWORKS[:1],
    subnets=SUBNETS[:1],
    ports=(Entry("vm1", PortFields(network="blue", host="host1", security_groups=("web",)), 20),),
    security_groups=(Entry("web", SecurityGroupFields(rules=WEB), 11), Entry("db", SecurityGroupFields(rules=DB), 15)),
    address_groups=(Entry("office", AddressGroupFields(addresses=("198.51.100.0/24", "192.0.2.1")), 2),),
)


def rule_ids(writer: Writer, group: str) -> dict[str, str]:
    return {rule_text(rule): rule.id for rule in writer.list_security_group_rules(group)}


def test_groups_that_refer_to_each_other_are_made_at_once(writer: Writer) -> None:
    planned = writer.difference(FILTERED)
    written = writer.apply(FILTERED)
    assert planned == written.result
    assert verbs(written.result) == [
        "create address_group office",
        "create security_group web",
        "create security_group db",
        "create network blue",
        "create subnet blue4",
        "create port vm1",
    ]
    assert rule_ids(writer, "db").keys() == {"ingress IPv4 any protocol from security group web"}
    assert len(rule_ids(writer, "web")) == 4
    assert not writer.apply(FILTERED).changed


def test_rules_are_compared_by_content(writer: Writer) -> None:
    writer.apply(FILTERED)
    before = rule_ids(writer, "web")
    only_https = replace(WEB[0], ports="443,8443", line=3)
    changed = Document(
        security_groups=(Entry("web", SecurityGroupFields(rules=(WEB[2], only_https, WEB[1]), stateful=True)),),
        address_groups=(Entry("office", AddressGroupFields(addresses=("192.0.2.1", "192.0.2.9"))),),
    )
    assert writer.apply(changed).result == (
        Change("address_group", "office", "change", (FieldChange("addresses", ("198.51.100.0/24",), ("192.0.2.9",)),)),
        Change(
            "security_group",
            "web",
            "change",
            (FieldChange("rules", ("ingress IPv4 tcp 80",), ("ingress IPv4 tcp 8443",)),),
        ),
    )
    after = rule_ids(writer, "web")
    assert {text: after[text] for text in after if text in before} == {
        text: before[text] for text in before if text != "ingress IPv4 tcp 80"
    }
    described = replace(WEB[2], description="from the database")
    again = Document(security_groups=(Entry("web", SecurityGroupFields(rules=(described, only_https, WEB[1]))),))
    (change,) = writer.apply(again).result
    assert [(field.old, field.new) for field in change.fields] == [("", "from the database")]
    assert rule_ids(writer, "web") == after


def test_prune_takes_groups_after_their_users(writer: Writer) -> None:
    writer.apply(FILTERED, set_name="one")
    writer.create_security_group("mine", SecurityGroupFields(rules=(replace(WEB[2], line=None),)))
    rest = Document(networks=NETWORKS[:1], subnets=SUBNETS[:1], security_groups=FILTERED.security_groups[1:])
    with pytest.raises(InputError, match=r"^line 16: security group db, rule 1: remote_group: there is no security"):
        writer.apply(rest, set_name="one", prune=True)
    written = writer.apply(Document(networks=NETWORKS[:1], subnets=SUBNETS[:1]), set_name="one", prune=True)
    assert verbs(written.result) == [
        "delete port vm1",
        "delete security_group db",
        "delete security_group web",
        "delete address_group office",
    ]
    assert [group.name for group in writer.list_security_groups()] == ["mine"]
    assert writer.list_security_group_rules() == []  # its rule went with the group that it named


def test_a_group_in_use_by_others_is_not_pruned(writer: Writer) -> None:
    writer.apply(FILTERED, set_name="one")
    writer.create_port("mine", PortFields(network="blue", security_groups=("web",)))
    with pytest.raises(InputError, match="security group web: it cannot be deleted while it is in use by port mine"):
        writer.apply(Document(NETWORKS[:1], SUBNETS[:1]), set_name="one", prune=True)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (RuleFields(direction="ingress", protocol="tcp", ports="90-80", line=7), "ports 90-80 is reversed"),
        (RuleFields(direction="ingress", protocol="tpc", line=7), "protocol 'tpc' is not one of"),
        (RuleFields(direction="ingress", remote_group="bd", line=7), "remote_group: there is no security group bd"),
    ],
)
def test_a_wrong_rule_is_named_and_nothing_is_written(writer: Writer, rule: RuleFields, words: str) -> None:
    groups = (*FILTERED.security_groups, Entry("bad", SecurityGroupFields(rules=(DB[0], rule)), 5))
    with pytest.raises(InputError, match=f"^line 7: security group bad, rule 2: {words}"):
        writer.apply(replace(FILTERED, security_groups=groups))
    assert writer.revision() == ("", 0)


def test_a_file_means_a_projects_default_group_only_by_naming_the_project(writer: Writer) -> None:
    port = Entry("vm1", PortFields(network="blue", project="p"))
    written = writer.apply(Document(networks=NETWORKS[:1], ports=(port,)))
    assert verbs(written.result) == ["create network blue", "create security_group default", "create port vm1"]
    plain = Entry("default", SecurityGroupFields(rules=DB[:0]))
    of_project = Entry("default", SecurityGroupFields(project="p", rules=WEB[:1]))
    assert verbs(writer.apply(Document(security_groups=(plain,))).result) == ["create security_group default"]
    assert verbs(writer.apply(Document(security_groups=(of_project,))).result) == ["change security_group default"]
    shown = {group.project: (group.default, len(group.rules)) for group in writer.list_security_groups()}
    assert shown == {"": (False, 0), "p": (True, 2)}
    of_other = Document(security_groups=(Entry("default", SecurityGroupFields(project="q", rules=())),))
    writer.apply(of_other, set_name="one")
    assert writer.apply(Document(), set_name="one", prune=True).result == ()  # a project keeps its default group
