# SPDX-License-Identifier: Apache-2.0
"""Security groups and address groups against a real ovsdb-server: Neutron's rules, and what is refused."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import InputError
from agent.store.document import (
    AddressGroupFields,
    FixedIpRequest,
    NetworkFields,
    PortFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
)
from agent.store.records import SecurityGroupRecord
from agent.store.writer import Writer
from agent.store.writer_records import rule_text
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

SSH = RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports=22)
WEB = RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports="80,443")
NO_RULES = SecurityGroupFields(rules=())


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A store with network blue and subnet blue4."""
    with StoreServer(tmp_path) as server, Writer.connect([server.address]) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
        writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
        yield writer
        assert_consistent(writer)


def texts(group: SecurityGroupRecord) -> list[str]:
    return [rule_text(rule) for rule in group.rules]


def members(writer: Writer, group: str) -> dict[str, int]:
    """Return the addresses of a group and how many have each."""
    return writer.read(
        lambda view: {
            address: count
            for chunk in view.find("security_group", group).addresses
            for address, count in chunk.addresses.items()
        }
    )


# Groups and rules


def test_a_new_group_lets_everything_out_and_nothing_in(writer: Writer) -> None:
    group = writer.create_security_group("web", SecurityGroupFields()).result
    assert texts(group) == ["egress IPv4 any protocol", "egress IPv6 any protocol"]
    assert (group.stateful, group.default, group.log, group.log_rate, group.log_burst) == (True, False, (), 100, 25)
    assert texts(writer.create_security_group("shut", NO_RULES).result) == []


def test_rules_are_shown_with_the_names_of_what_they_refer_to(writer: Writer) -> None:
    writer.create_address_group("office", AddressGroupFields(addresses=("198.51.100.0/24", "2001:db8:f::/48")))
    rules = (
        WEB,
        RuleFields(direction="ingress", protocol="tcp", ports="22-23", remote_address_group="office"),
        RuleFields(direction="egress", ethertype="IPv6", remote_group="web"),
        RuleFields(direction="egress", protocol="icmp", icmp_type=8, icmp_code=0, remote_ip_prefix="192.0.2.1"),
        RuleFields(direction="egress", protocol=200, ethertype="IPv4"),
    )
    group = writer.create_security_group("web", SecurityGroupFields(rules=rules)).result
    assert texts(group) == [
        "egress IPv4 200",
        "egress IPv4 icmp type 8 code 0 to 192.0.2.1/32",
        "egress IPv6 any protocol to security group web",
        "ingress IPv4 tcp 22-23 from address group office",
        "ingress IPv4 tcp 80",
        "ingress IPv4 tcp 443",
        "ingress IPv6 tcp 22-23 from address group office",
    ]
    assert writer.list_security_groups() == [group]
    assert writer.list_security_group_rules("web") == writer.list_security_group_rules() == list(group.rules)
    assert writer.get_security_group_rule(group.rules[2].id).remote_group == group.id


def test_setting_the_rules_keeps_the_rows_of_those_that_stay(writer: Writer) -> None:
    before = writer.create_security_group("web", SecurityGroupFields(rules=(WEB, SSH))).result
    ids = {rule_text(rule): rule.id for rule in before.rules}
    everywhere = RuleFields(
        direction="ingress", ethertype="IPv4", protocol="tcp", ports=443, remote_ip_prefix="0.0.0.0/0", description="x"
    )
    dns = RuleFields(direction="egress", ethertype="IPv4", protocol="udp", ports=53)
    after = writer.set_security_group("web", SecurityGroupFields(rules=(everywhere, SSH, SSH, dns))).result
    kept = {rule_text(rule): rule.id for rule in after.rules}
    assert kept.keys() == {"egress IPv4 udp 53", "ingress IPv4 tcp 22", "ingress IPv4 tcp 443"}
    # 0.0.0.0/0 is the same as no prefix: a description alone makes no other rule.
    assert [kept[text] for text in ("ingress IPv4 tcp 22", "ingress IPv4 tcp 443")] == [
        ids[text] for text in ("ingress IPv4 tcp 22", "ingress IPv4 tcp 443")
    ]
    assert {rule.description for rule in after.rules if rule.port_range_min == 443} == {"x"}
    assert not writer.set_security_group("web", SecurityGroupFields(rules=(everywhere, SSH, dns))).changed


def test_rules_are_added_once_and_removed_one_by_one(writer: Writer) -> None:
    writer.create_security_group("web", NO_RULES)
    added = writer.add_security_group_rules("web", (WEB, SSH))
    assert [rule.port_range_min for rule in added.result] == [80, 443, 22]
    again = writer.add_security_group_rules("web", (WEB, RuleFields(direction="ingress", protocol="tcp", ports=22)))
    assert [(rule.ethertype, rule.port_range_min) for rule in again.result] == [("IPv6", 22)]
    assert not writer.add_security_group_rules("web", (WEB,)).changed
    removed = writer.remove_security_group_rule(added.result[0].id).result
    assert removed == added.result[0]
    assert len(writer.get_security_group("web").rules) == 3
    with pytest.raises(InputError, match=f"there is no security group rule {removed.id}"):
        writer.remove_security_group_rule(removed.id)
    with pytest.raises(InputError, match="there is no security group rule web"):
        writer.remove_security_group_rule("web")


def test_a_cloud_gives_ids_and_is_told_of_doubles(writer: Writer) -> None:
    group_id, rule_id = str(uuid.uuid4()), str(uuid.uuid4())
    writer.create_security_group("web", NO_RULES, group_id=group_id, claim_name=False)
    writer.create_security_group("web", NO_RULES, claim_name=False)  # names repeat in a cloud
    (made,) = writer.add_security_group_rule(group_id, SSH, rule_id=rule_id).result
    assert (made.id, made.group) == (rule_id, group_id)
    with pytest.raises(InputError, match=rf"^security group web: the group has this rule already \({rule_id}"):
        writer.add_security_group_rule(group_id, SSH)
    with pytest.raises(InputError, match=f"there is a rule with the id {rule_id} already"):
        writer.add_security_group_rule(group_id, RuleFields(direction="egress"), rule_id=rule_id)
    with pytest.raises(InputError, match="with an id it must be one rule"):
        writer.add_security_group_rule(group_id, RuleFields(direction="egress"), rule_id=str(uuid.uuid4()))
    with pytest.raises(InputError, match="there is a security group with the id"):
        writer.create_security_group("other", NO_RULES, group_id=group_id)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            SecurityGroupFields(rules=(SSH, RuleFields(direction="ingress", remote_group="wbe", line=9))),
            "^line 9: security group web, rule 2: remote_group: there is no security group wbe",
        ),
        (
            SecurityGroupFields(rules=(RuleFields(direction="ingress", remote_address_group="office"),)),
            "^security group web, rule 1: remote_address_group: there is no address group office",
        ),
        (SecurityGroupFields(log=("reject",)), "security group web: log 'reject' is not one of accept, drop"),
        (SecurityGroupFields(log_rate=0), r"security group web: log_rate 0 is outside 1\.\.10000"),
        (SecurityGroupFields(log_burst=10001), r"security group web: log_burst 10001 is outside"),
        (SecurityGroupFields(external_ids={"hostplane-set": "x"}), "keys that begin with hostplane- are reserved"),
    ],
)
def test_a_wrong_group_is_refused_by_name_and_field(writer: Writer, fields: SecurityGroupFields, words: str) -> None:
    before = writer.revision()
    with pytest.raises(InputError, match=words):
        writer.create_security_group("web", fields)
    writer.create_security_group("web", NO_RULES)
    with pytest.raises(InputError, match=words):
        writer.set_security_group("web", fields)
    assert writer.revision()[1] == before[1] + 1


def test_claimed_names_of_groups_are_unique(writer: Writer) -> None:
    writer.create_security_group("web", NO_RULES)
    writer.create_address_group("web", AddressGroupFields())
    with pytest.raises(InputError, match="security group web: there is a security group with this name already"):
        writer.create_security_group("web", NO_RULES)
    with pytest.raises(InputError, match="address group web: there is an address group with this name already"):
        writer.create_address_group("web", AddressGroupFields())
    assert writer.set_security_group("web", SecurityGroupFields(), name="www").result.name == "www"


def test_deleting_a_group_takes_the_rules_of_others_that_refer_to_it_along(writer: Writer) -> None:
    writer.create_security_group("db", NO_RULES)
    from_db = RuleFields(direction="ingress", remote_group="db", ethertype="IPv4")
    web = writer.create_security_group("web", SecurityGroupFields(rules=(from_db, SSH))).result
    writer.add_security_group_rules("db", (from_db,))
    deleted = writer.delete_security_group("db")
    assert deleted.groups == {web.id}
    assert texts(writer.get_security_group("web")) == ["ingress IPv4 tcp 22"]
    assert len(writer.list_security_group_rules()) == 1


def test_a_group_that_ports_have_can_not_be_deleted_and_stays_stateful(writer: Writer) -> None:
    writer.create_security_group("web", NO_RULES)
    writer.create_port("vm1", PortFields(network="blue", security_groups=("web",)))
    with pytest.raises(InputError, match="security group web: it cannot be deleted while it is in use by port vm1"):
        writer.delete_security_group("web")
    with pytest.raises(InputError, match="stateful cannot change while it is in use by port vm1"):
        writer.set_security_group("web", SecurityGroupFields(stateful=False))
    writer.set_port("vm1", PortFields(security_groups=()))
    assert writer.set_security_group("web", SecurityGroupFields(stateful=False)).result.stateful is False
    writer.delete_security_group("web")


# Default groups


def test_the_first_filtered_port_of_a_project_makes_its_default_group(writer: Writer) -> None:
    written = writer.create_port("vm1", PortFields(network="blue", project="p1"))
    assert written.result.security_groups == ("default",)
    assert written.changed
    (group,) = writer.list_security_groups()
    assert (group.name, group.project, group.default, group.stateful) == ("default", "p1", True, True)
    assert texts(group) == [
        "egress IPv4 any protocol",
        "egress IPv6 any protocol",
        "ingress IPv4 any protocol from security group default",
        "ingress IPv6 any protocol from security group default",
    ]
    again = writer.create_port("vm2", PortFields(network="blue", project="p1")).result
    other = writer.create_port("vm3", PortFields(network="blue", project="p2")).result
    assert again.security_group_ids == (group.id,)
    assert other.security_group_ids != (group.id,)
    assert members(writer, group.id) == {"10.0.0.2": 1, "10.0.0.3": 1}


@pytest.mark.parametrize(
    ("fields", "groups"),
    [
        (PortFields(network="blue"), None),
        (PortFields(network="blue", project="p", port_security=False), None),
        (PortFields(network="blue", project="p", security_groups=None), None),
        (PortFields(network="blue", project="p", device_owner="network:router_interface"), None),
        (PortFields(network="blue", project="p", security_groups=()), ()),
        (PortFields(network="blue", security_groups=()), ()),
        (PortFields(network="blue", port_security=False, security_groups=()), None),
    ],
)
def test_other_ports_get_none(writer: Writer, fields: PortFields, groups: tuple[str, ...] | None) -> None:
    assert writer.create_port("vm1", fields).result.security_groups == groups
    assert writer.list_security_groups() == []


def test_a_default_group_is_made_on_request_and_kept(writer: Writer) -> None:
    group = writer.create_security_group("default", SecurityGroupFields(project="p")).result
    assert (group.default, len(group.rules)) == (True, 4)
    assert writer.create_port("vm1", PortFields(network="blue", project="p")).result.security_group_ids == (group.id,)
    with pytest.raises(InputError, match=f"project p has its default security group already .{group.id}"):
        writer.create_security_group("default", SecurityGroupFields(project="p"))
    with pytest.raises(InputError, match="the default security group of project p cannot be deleted"):
        writer.delete_security_group(group.id)
    with pytest.raises(InputError, match="the default security group of project p cannot be renamed"):
        writer.set_security_group(group.id, SecurityGroupFields(), name="usual")
    with pytest.raises(InputError, match="a security group called default cannot change its project"):
        writer.set_security_group(group.id, SecurityGroupFields(project="q"))
    changed = writer.set_security_group(group.id, SecurityGroupFields(rules=(SSH,)))
    assert texts(changed.result) == ["ingress IPv4 tcp 22"]


def test_default_means_the_group_of_the_ports_or_rules_own_project(writer: Writer) -> None:
    for project in ("p", "q"):
        writer.create_security_group("default", SecurityGroupFields(project=project))
    port = writer.create_port("vm1", PortFields(network="blue", project="q", security_groups=("default",))).result
    assert writer.get_security_group(port.security_group_ids[0]).project == "q"
    with pytest.raises(InputError, match="port vm2: 2 security groups are called default: say which one by its id"):
        writer.create_port("vm2", PortFields(network="blue", security_groups=("default",)))
    rule = RuleFields(direction="ingress", ethertype="IPv4", remote_group="default")
    web = writer.create_security_group("web", SecurityGroupFields(project="p", rules=(rule,))).result
    assert writer.get_security_group(web.rules[0].remote_group or "").project == "p"


# Ports


def test_groups_of_a_port_need_port_security(writer: Writer) -> None:
    writer.create_security_group("web", NO_RULES)
    words = "port vm1: security groups mean nothing without port security"
    with pytest.raises(InputError, match=words):
        writer.create_port("vm1", PortFields(network="blue", port_security=False, security_groups=("web",)))
    writer.create_port("vm1", PortFields(network="blue", security_groups=("web", "web")))
    with pytest.raises(InputError, match=words):
        writer.set_port("vm1", PortFields(port_security=False))
    assert writer.get_port("vm1").security_groups == ("web",)
    port = writer.set_port("vm1", PortFields(port_security=False, security_groups=())).result
    assert (port.port_security, port.security_groups) == (False, None)
    assert writer.set_port("vm1", PortFields(port_security=True)).result.security_groups is None
    with pytest.raises(InputError, match="port vm1: there is no security group wbe"):
        writer.set_port("vm1", PortFields(security_groups=("wbe",)))


def test_stateful_and_stateless_groups_do_not_mix(writer: Writer) -> None:
    writer.create_security_group("web", NO_RULES)
    writer.create_security_group("fast", SecurityGroupFields(rules=(), stateful=False))
    with pytest.raises(InputError, match="port vm1: security group web is stateful and fast is stateless"):
        writer.create_port("vm1", PortFields(network="blue", security_groups=("fast", "web")))
    writer.create_port("vm1", PortFields(network="blue", security_groups=("fast",)))


def test_members_are_all_addresses_of_the_ports_and_go_with_the_last_port(writer: Writer) -> None:
    writer.create_network("red", NetworkFields(type="vxlan"))
    writer.create_subnet("red4", SubnetFields(network="red", cidr="10.0.0.0/24"))  # overlaps blue4
    writer.create_security_group("web", NO_RULES)
    ten = (FixedIpRequest("10.0.0.10"),)
    writer.create_port(
        "vm1",
        PortFields(
            network="blue",
            fixed_ips=ten,
            security_groups=("web",),
            allowed_address_pairs=("10.0.0.10", "10.9.0.0/16 fa:16:3e:00:00:01", "2001:db8::5"),
        ),
    )
    writer.create_port("vm2", PortFields(network="red", fixed_ips=ten, security_groups=("web",)))
    assert members(writer, "web") == {"10.0.0.10": 2, "10.9.0.0/16": 1, "2001:db8::5": 1}
    writer.set_port("vm1", PortFields(fixed_ips=(FixedIpRequest("10.0.0.11"),), allowed_address_pairs=()))
    assert members(writer, "web") == {"10.0.0.10": 1, "10.0.0.11": 1}
    writer.create_subnet("blue6", SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac"))
    assert len(members(writer, "web")) == 3  # vm1 got an automatic address
    writer.delete_subnet("blue6")
    writer.set_port("vm1", PortFields(security_groups=None))
    assert members(writer, "web") == {"10.0.0.10": 1}
    writer.delete_port("vm2")
    assert members(writer, "web") == {}
    assert writer.read(lambda view: view.rows("Address_Chunk")) == []


# Address groups


def test_addresses_come_and_go(writer: Writer) -> None:
    given = ("2001:DB8::/32", "10.0.0.1/32", "10.0.0.0/24", "192.0.2.1", "10.0.0.1")
    group = writer.create_address_group("office", AddressGroupFields(addresses=given)).result
    assert group.addresses == ("10.0.0.0/24", "10.0.0.1", "192.0.2.1", "2001:db8::/32")
    assert not writer.add_addresses("office", ("10.0.0.1",)).changed
    assert "10.0.0.2" in writer.add_addresses("office", ("10.0.0.2", "10.0.0.1")).result.addresses
    assert "192.0.2.1" not in writer.remove_addresses("office", ("192.0.2.1/32",)).result.addresses
    with pytest.raises(InputError, match=r"address group office: not among its addresses: 192\.0\.2\.1$"):
        writer.remove_addresses("office", ("192.0.2.1", "10.0.0.1"))
    with pytest.raises(InputError, match=r"address group office: address 10\.0\.0\.1/24 has host bits set"):
        writer.add_addresses("office", ("10.0.0.1/24",))
    changed = writer.set_address_group("office", AddressGroupFields(addresses=("10.0.0.9",), description="d")).result
    assert (changed.addresses, changed.description) == (("10.0.0.9",), "d")
    assert writer.get_address_group("office") == changed
    assert writer.list_address_groups() == [changed]


def test_an_address_group_that_rules_refer_to_stays(writer: Writer) -> None:
    writer.create_address_group("office", AddressGroupFields(addresses=("10.0.0.1",)))
    rule = RuleFields(direction="ingress", ethertype="IPv4", remote_address_group="office")
    group = writer.create_security_group("web", SecurityGroupFields(rules=(rule,))).result
    words = f"address group office: it is in use by rule {group.rules[0].id} of security group web"
    with pytest.raises(InputError, match=words):
        writer.delete_address_group("office")
    writer.remove_security_group_rule(group.rules[0].id)
    writer.delete_address_group("office")
    assert writer.read(lambda view: view.rows("Address_Chunk")) == []


def test_thousands_of_rules_and_addresses_are_only_more_of_the_same(writer: Writer) -> None:
    count = 2000
    rules = tuple(
        RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports=1 + number) for number in range(count)
    )
    made = writer.create_security_group("big", SecurityGroupFields(rules=rules)).result
    assert len(made.rules) == count
    more = RuleFields(direction="egress", ethertype="IPv4", protocol="udp", ports=9)
    assert len(writer.add_security_group_rules("big", (*rules[:5], more)).result) == 1
    addresses = tuple(f"10.1.{number // 250}.{number % 250}" for number in range(count))
    writer.create_address_group("many", AddressGroupFields(addresses=addresses))
    before = chunk_versions(writer)
    writer.add_addresses("many", ("10.200.0.1",))
    touched = [chunk for chunk in chunk_versions(writer).items() if chunk not in before.items()]
    assert len(touched) <= 2  # one, or both halves of one
    writer.set_address_group("many", AddressGroupFields(addresses=addresses[:3]))
    assert len(chunk_versions(writer)) == 1
    writer.delete_security_group("big")
    assert writer.list_security_group_rules() == []


def chunk_versions(writer: Writer) -> dict[str, frozenset[str]]:
    return writer.read(lambda view: {row.chunk: frozenset(row.addresses) for row in view.rows("Address_Chunk")})
