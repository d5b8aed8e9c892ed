# SPDX-License-Identifier: Apache-2.0
"""What operators and tenants do to routers: many changes, damage by hand, names that are taken, wrong wishes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest

from agent.cli.yaml_file import parse_file
from agent.core.errors import InputError
from agent.store.document import UNSET, FixedIpRequest, FloatingIpFields, HostRoute, PortForwardingFields, RouterFields
from tests.functional.lab import EchoStream, Lab, eventually
from tests.functional.router_tools import (
    Session,
    assert_survived,
    namespace_of,
    new_router_lab,
    page,
    problems,
    wait_converged,
    wait_gateway,
)

pytestmark = pytest.mark.alone

CROWD = range(50)  # floating IPs that come and go
MANY = ", ".join(f"10.0.0.{100 + number}" for number in CROWD)
DOCUMENT = f"""
networks:
  public: {{type: flat, physnet: external, external: true}}
  cb: {{type: vxlan}}
  db: {{type: vxlan}}
subnets:
  public4: {{network: public, cidr: 203.0.113.0/24, gateway: 203.0.113.1, dhcp: false}}
  cb4: {{network: cb, cidr: 10.0.0.0/24, dhcp: false}}
  db4: {{network: db, cidr: 10.0.0.0/24, dhcp: false}}
routers:
  c:
    gateway: {{network: public, hosts: [host1, host2], fixed_ips: [203.0.113.2]}}
    interfaces: [cb4]
    routes: [{{destination: 10.9.0.0/16, nexthop: 10.0.0.12}}]
  d:
    distributed: true
    gateway: {{network: public, hosts: [host2, host1], fixed_ips: [203.0.113.3]}}
    interfaces: [db4]
ports:
  c2: {{network: cb, host: host2, fixed_ips: [10.0.0.12]}}
  d1: {{network: db, host: host1, fixed_ips: [10.0.0.11]}}
  p1: {{network: db, host: host1, fixed_ips: [10.0.0.19]}}
  many: {{network: cb, host: host2, fixed_ips: [{MANY}]}}
floating_ips:
  203.0.113.12: {{port: c2}}
  203.0.113.21: {{port: d1}}
"""
HOSTS = ("host1", "host2")
RESYNC = 2.0
LATE = 0.5  # seconds that a scheduling hiccup of the machine may delay a reply: late is not lost
# All that a router has in its namespace; counters, ages and neighbors that were asked for are left out.
STATE = """
ip -o link | sed 's/ qdisc.*//' | cut -d: -f2-
ip -o address | awk '{print $2, $3, $4}' | sort
ip route
ip neighbor show nud permanent | sort
iptables-save | grep '^-A'
sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.netfilter.nf_conntrack_tcp_loose
"""
DAMAGE = """
ip address delete 203.0.113.12/32 dev $QG
ip route delete 10.9.0.0/16
ip neighbor delete 10.0.0.12 dev $QR
sysctl -q -w net.ipv4.ip_forward=0 net.netfilter.nf_conntrack_tcp_loose=0
iptables -t nat -D hp-floating -s 10.0.0.12/32 -j SNAT --to-source 203.0.113.12
iptables -t nat -F hp-dnat
iptables -t mangle -F FORWARD
ip link set $QG down
"""


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., Lab]) -> Lab:
    lab = new_router_lab(new_lab, DOCUMENT, 2, resync=RESYNC)
    wait_gateway(lab, "c", "host1", HOSTS)
    wait_gateway(lab, "d", "host2", HOSTS)
    assert_all_work(lab)
    return lab


def assert_all_work(lab: Lab) -> None:
    for source, address in (
        ("upstream", "203.0.113.12"),
        ("upstream", "203.0.113.21"),
        ("c2", "198.51.100.1"),
        ("many", "198.51.100.1"),
        ("d1", "198.51.100.1"),
    ):
        lab.assert_connection(source, address)


def test_fifty_floating_ips_come_and_go_and_nobody_else_notices(lab: Lab) -> None:
    session = Session(lab, "upstream", "c2", "203.0.113.12")
    streams = {
        "to another floating IP": EchoStream(lab, "upstream", "203.0.113.12"),
        "out, translated": EchoStream(lab, "many", "198.51.100.1", 200),
        "to a floating IP of another router": EchoStream(lab, "upstream", "203.0.113.21", 200),
    }
    for stream in streams.values():
        stream.wait_flowing()
    crowd = {f"203.0.113.{100 + number}": f"10.0.0.{100 + number}" for number in CROWD}
    lines = [f"  {address}: {{port: many, fixed_ip: {fixed}}}" for address, fixed in crowd.items()]
    lab.applied(lab.writer.apply(parse_file("\n".join(["floating_ips:", *lines]).encode(), "crowd")))
    for address in (min(crowd), max(crowd)):
        lab.assert_connection("upstream", address)
    last = None
    for address in crowd:
        last = lab.writer.delete_floating_ip(address)
    assert last is not None
    lab.applied(last)
    assert not lab.ping("upstream", max(crowd))
    for name, stream in streams.items():
        report = stream.stop()
        print(f"50 floating IPs: {name}: {report.summary()}")
        assert not report.lost, (name, report.losses_by_second())
        assert report.longest_gap[0] < LATE, name
    assert_survived(session.stop(), "50 floating IPs")


def test_nothing_is_lost_when_agents_restart(lab: Lab) -> None:
    session = Session(lab, "upstream", "c2", "203.0.113.12")
    streams = [EchoStream(lab, "upstream", "203.0.113.12"), EchoStream(lab, "many", "198.51.100.1", 200)]
    for stream in streams:
        stream.wait_flowing()
    for host, kill in (("host1", True), ("host2", False)):
        lab.sandbox.restart(host, kill=kill)
        wait_converged(lab, host)
    for stream in streams:
        report = stream.stop()
        print(f"agents restarted: {report.summary()}")
        assert not report.lost, report.losses_by_second()
        assert report.longest_gap[0] < LATE
    assert_survived(session.stop(), "agents restarted")


def test_status_says_where_a_floating_ip_is_and_what_passes(lab: Lab) -> None:
    lab.assert_connection("upstream", "203.0.113.12")
    lab.assert_connection("c2", "198.51.100.1")
    (here,) = page(lab, "host1", "floating-ip", "203.0.113.12")["floating_ips"]
    assert (here["is_here"], here["reason"], here["port_host"]) == (True, "", "host2")
    assert here["begun"]["in"] > 0
    assert [(hop["nexthop"], hop["state"]) for hop in here["next_hops"]] == [("203.0.113.1", "known")]
    (there,) = page(lab, "host2", "floating-ip", "203.0.113.12")["floating_ips"]
    assert (there["host"], there["is_here"], there["port_name"], there["port_up"]) == ("host1", False, "c2", True)
    (router,) = page(lab, "host2", "router", "d")["routers"]
    assert (router["ready"], router["namespace"]) == (True, namespace_of(lab, "d"))
    # Distributed: it leaves from its instance's host, wherever the gateway is.
    assert {each["floating_ip_address"]: each["host"] for each in router["floating_ips"]} == {"203.0.113.21": "host1"}


def announced(frame: bytes) -> str:
    """Return the address that an ARP request is for if its sender has it itself (RFC 5227, section 3), else ""."""
    is_request = frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1"
    return ".".join(map(str, frame[28:32])) if is_request and frame[28:32] == frame[38:42] else ""


def test_a_restarted_agent_announces_nothing_that_was_there(lab: Lab) -> None:
    with lab.capture("upstream") as capture:
        lab.sandbox.restart("host1")
        wait_converged(lab, "host1")
        new = lab.writer.create_floating_ip("203.0.113.70", FloatingIpFields(port="many", fixed_ip="10.0.0.101"))
        frames = capture.until(lambda frame: announced(frame) == "203.0.113.70", 10)
    lab.applied(new)
    assert {announced(frame) for frame in frames} - {""} == {"203.0.113.70"}
    lab.applied(lab.writer.delete_floating_ip("203.0.113.70"))


def test_a_floating_ip_that_goes_ends_what_it_carried_and_nothing_else(lab: Lab) -> None:
    other = lab.writer.create_floating_ip("203.0.113.60", FloatingIpFields(port="many", fixed_ip="10.0.0.100"))
    lab.applied(other)
    lab.assert_connection("upstream", "203.0.113.60")
    kept = Session(lab, "upstream", "c2", "203.0.113.12")
    ended = Session(lab, "upstream", "many", "203.0.113.60", 7)
    place = ("ip", "netns", "exec", namespace_of(lab, "c"), "cat", "/proc/net/nf_conntrack")
    assert "dst=203.0.113.60" in lab.output("host1", *place)
    lab.applied(lab.writer.delete_floating_ip("203.0.113.60"))
    entries = lab.output("host1", *place)
    assert "src=10.0.0.100 dst=203.0.113.1" not in entries
    assert "src=10.0.0.12 dst=203.0.113.1 sport=7" in entries
    ended.give_up()
    assert_survived(kept.stop(), "another floating IP deleted")


@pytest.mark.parametrize(
    ("external", "port", "source", "seen_from"),
    [
        ("203.0.113.2", "c2", "upstream", "203.0.113.1"),
        ("203.0.113.70", "many", "upstream", "203.0.113.1"),
        ("203.0.113.3", "p1", "upstream", "203.0.113.1"),
        ("203.0.113.2", "c2", "many", "203.0.113.2"),
    ],
    ids=["the gateway's address", "an address of its own", "distributed", "from inside"],
)
def test_a_forwarded_port_leads_to_its_instance(
    lab: Lab, external: str, port: str, source: str, seen_from: str
) -> None:
    fixed_ip = "10.0.0.101" if port == "many" else UNSET  # where there is a choice
    forwarding = PortForwardingFields(protocol="tcp", internal=f"{port}:8000-8009", fixed_ip=fixed_ip)
    lab.applied(lab.writer.create_port_forwarding(f"{external}:2220-2229", forwarding))
    session = Session(lab, source, port, external, 2223, listens=8003)
    lab.assert_connection("upstream", "203.0.113.12")
    report = session.stop()
    assert_survived(report, f"{external}:2223")
    assert report.peer == seen_from
    lab.writer.delete_port_forwarding(f"{external}:2220-2229/tcp")


def test_damage_by_hand_is_repaired_and_what_is_not_ours_stays(lab: Lab) -> None:
    space = namespace_of(lab, "c")
    foreign = f"qrouter-{uuid.uuid4()}"
    inside = ("ip", "netns", "exec", space, "sh", "-ec")
    qg, qr = (lab.output("host1", *inside, f"ip -o link | grep -o '{kind}-[^@]*'").strip() for kind in ("qg", "qr"))
    lab.output("host1", *inside, f"ip route add 10.77.0.0/16 via 10.0.0.12 dev {qr} proto static")
    lab.output("host1", *inside, "iptables -t nat -N mine; iptables -t nat -A mine -d 192.0.2.1 -j ACCEPT")
    script = f"ip netns add {foreign}; ip -n {foreign} link set lo up; ip -n {foreign} route add 10.78.0.0/16 dev lo"
    lab.output("host1", "sh", "-ec", script)
    before = lab.output("host1", *inside, STATE)
    assert "mine" in before
    lab.output("host1", *inside, DAMAGE.replace("$QG", qg).replace("$QR", qr))
    assert lab.output("host1", *inside, STATE) != before
    eventually(lambda: lab.output("host1", *inside, STATE) == before, "all is as it was", 3 * RESYNC)
    assert_all_work(lab)
    assert "10.78.0.0/16" in lab.output("host1", "ip", "-n", foreign, "route")
    lab.output("host1", "ip", "netns", "delete", foreign)


def test_a_namespace_that_was_deleted_is_made_again(lab: Lab) -> None:
    lab.output("host1", "ip", "netns", "delete", namespace_of(lab, "c"))
    lab.output("host2", "ip", "netns", "delete", namespace_of(lab, "d"))
    assert_all_work(lab)


FRESH = """
networks: {NET: {type: vxlan}}
subnets: {NET4: {network: NET, cidr: 10.0.0.0/24, dhcp: false}}
ports: {NET1: {network: NET, host: host1, fixed_ips: [10.0.0.11]}}
"""


PATIENCE = 5  # seconds: an answer may be late, but what asks for it is sent once
ASK_AGAIN_AFTER = "for each in /proc/sys/net/ipv4/neigh/*/retrans_time_ms; do echo {}000 > $each; done"


@pytest.mark.parametrize("distributed", [False, True], ids=["centralised", "distributed"])
def test_who_has_waited_for_a_router_and_a_floating_ip_is_answered_at_once(lab: Lab, distributed: bool) -> None:
    net = "fd" if distributed else "fc"
    # Addresses that nobody had before: those outside need not be told of other MAC addresses.
    gateway, address = ("203.0.113.83", "203.0.113.84") if distributed else ("203.0.113.81", "203.0.113.82")
    lab.bring_up(FRESH.replace("NET", net))
    fields = RouterFields(
        external_network="public",
        external_fixed_ips=(FixedIpRequest(gateway),),
        gateway_hosts=("host2", "host1"),
        interfaces=(FixedIpRequest(subnet=f"{net}4"),),
        distributed=distributed,
    )
    for place in (f"{net}1", "upstream"):
        lab.output(place, "sh", "-ec", ASK_AGAIN_AFTER.format(2 * PATIENCE))
    lab.ready(lab.writer.create_router(net, fields))
    assert lab.ping(f"{net}1", "198.51.100.1", wait=PATIENCE)
    lab.ready(lab.writer.create_floating_ip(address, FloatingIpFields(port=f"{net}1")))
    assert lab.ping("upstream", address, wait=PATIENCE)
    lab.output("upstream", "sh", "-ec", ASK_AGAIN_AFTER.format(1))
    lab.ready(lab.writer.delete_floating_ip(address))
    lab.ready(lab.writer.delete_router(net))


def test_a_namespace_of_somebody_else_is_left_alone_and_only_its_router_does_not_work(lab: Lab) -> None:
    router_id = str(uuid.uuid4())
    taken = f"qrouter-{router_id}"
    script = f"ip netns add {taken}; ip -n {taken} link set lo up; ip -n {taken} route add 10.78.0.0/16 dev lo"
    lab.output("host1", "sh", "-ec", script)
    fields = RouterFields(external_network="public", gateway_hosts=("host1",))
    lab.writer.create_router("late", fields, router_id=router_id)

    def said() -> str:
        return " ".join(status.reason for status in lab.writer.get_router("late").status)

    eventually(lambda: taken in said(), "the router's status names the namespace")
    print(said())
    named = next(each for each in problems(lab, "host1") if taken in each)
    assert "router late" in named
    assert "'actor': 'operator'" in named
    (shown,) = page(lab, "host1", "router", "late")["routers"]
    assert not shown["ready"]
    assert [line.partition(":")[0] for line in shown["unfinished"]] == [f"netns {taken}"]
    assert lab.output("host1", "ip", "-n", taken, "route").strip() == "10.78.0.0/16 dev lo scope link"
    assert_all_work(lab)
    lab.output("host1", "ip", "netns", "delete", taken)
    gateway = lab.writer.get_router("late").external_fixed_ips[0].address
    lab.assert_connection("upstream", gateway)
    lab.applied(lab.writer.delete_router("late"))
    assert taken not in lab.output("host1", "ip", "netns")


def test_a_route_that_leads_nowhere_is_left_out_and_named(lab: Lab) -> None:
    """The writer refuses it; a cloud writes the store by itself."""
    row = lab.writer.get_router("c").id
    wrong = "10.99.0.0/16 192.0.2.9"

    def mutate(mutator: str) -> None:
        where = [["_uuid", "==", ["uuid", row]]]
        change = {"op": "mutate", "table": "Router", "where": where, "mutations": [["routes", mutator, wrong]]}
        request = json.dumps(["Hostplane", change])
        lab.output("host1", "ovsdb-client", "transact", lab.sandbox.paths.store_address, request)

    mutate("insert")
    eventually(lambda: any("192.0.2.9" in each for each in problems(lab, "host1")), "the route is named")
    problem = next(each for each in problems(lab, "host1") if "192.0.2.9" in each)
    print(problem)
    assert "router c" in problem
    assert "routes" in problem
    assert_all_work(lab)
    mutate("delete")
    eventually(lambda: not any("192.0.2.9" in each for each in problems(lab, "host1")), "it is forgotten")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (RouterFields(external_network="public", external_fixed_ips=(FixedIpRequest("203.0.113.2"),)), "203.0.113.2"),
        (RouterFields(external_network="public", external_fixed_ips=(FixedIpRequest("192.0.2.2"),)), "192.0.2.2"),
        (RouterFields(interfaces=(FixedIpRequest("10.0.0.8", "cb4"), FixedIpRequest("10.0.0.9", "db4"))), "overlap"),
        (RouterFields(routes=(HostRoute("10.9.0.0/16", "192.0.2.9"),)), "192.0.2.9"),
    ],
    ids=["duplicate external address", "gateway outside its subnet", "overlapping interfaces", "unreachable next hop"],
)
def test_wrong_wishes_are_refused_by_the_name_of_router_and_field(
    lab: Lab, fields: RouterFields, complaint: str
) -> None:
    with pytest.raises(InputError, match=f"router wrong[,:] .*{complaint}") as error:
        lab.writer.create_router("wrong", fields)
    print(error.value)
    assert any(field in str(error.value) for field in ("gateway: fixed ip", "interfaces", "routes"))
