# SPDX-License-Identifier: Apache-2.0
"""Several writers at once: nothing twice, nothing lost, and one revision for each write."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from agent.core.errors import InputError
from agent.store import writer_kinds
from agent.store.chunks import address_bits
from agent.store.document import (
    UNSET,
    AddressGroupFields,
    FixedIpRequest,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
)
from agent.store.writer import Writer
from agent.store.writer_session import Session
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

WRITERS = 6

PROCESS = """
import sys
sys.modules["eventlet"] = None
from agent.store.document import NetworkFields, PortFields
from agent.store.writer import Writer
address, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Writer.connect([address]) as writer:
    for number in range(count):
        writer.create_port(f"vm-{who}-{number}", PortFields(network="blue", host=f"host{who}"))
        writer.create_network(f"net-{who}-{number}", NetworkFields(type="vxlan"))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as server:
        yield server


@pytest.fixture
def writers(server: StoreServer) -> Iterator[list[Writer]]:
    """Several writers, each with a replica of its own, on a store in which nothing was written yet."""
    writers = [Writer.connect([server.address], timeout=60) for _ in range(WRITERS)]
    yield writers
    with Writer.connect([server.address]) as present:
        assert_consistent(present)
    for writer in writers:
        writer.close()


@pytest.fixture
def now(server: StoreServer) -> Iterator[Callable[[], Writer]]:
    """Return what gives a view of the store as it is now: the writers' own replicas may be a moment behind."""
    opened: list[Writer] = []

    def connect() -> Writer:
        opened.append(Writer.connect([server.address]))
        return opened[-1]

    yield connect
    for writer in opened:
        writer.close()


def at_once(writers: list[Writer], work: Callable[[Writer, int], object]) -> list[InputError]:
    """Run *work* in all writers at the same time; return the errors of those that were refused."""
    barrier = Barrier(len(writers))

    def run(number: int) -> InputError | None:
        barrier.wait(30)
        try:
            work(writers[number], number)
        except InputError as err:
            return err
        return None

    with ThreadPoolExecutor(len(writers)) as pool:
        return [err for err in pool.map(run, range(len(writers))) if err is not None]


def test_first_writers_make_one_generation(writers: list[Writer], now: Callable[[], Writer]) -> None:
    errors = at_once(writers, lambda writer, n: writer.create_network(f"n{n}", NetworkFields(type="vxlan")))
    assert errors == []
    present = now()
    generation, revision = present.revision()
    assert generation
    assert revision == WRITERS
    assert len({network.segmentation_id for network in present.list_networks()}) == WRITERS


def test_ports_and_networks_of_many_writers_are_all_there_and_all_different(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    each = 6
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    writers[0].create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
    before = writers[0].revision()[1]
    revisions: list[int] = []

    def work(writer: Writer, number: int) -> None:
        for i in range(each):
            revisions.append(writer.create_port(f"vm-{number}-{i}", PortFields(network="blue", host="h")).revision)
            revisions.append(writer.create_network(f"n-{number}-{i}", NetworkFields(type="vxlan")).revision)

    assert at_once(writers, work) == []
    present = now()
    ports, networks = present.list_ports(), present.list_networks()
    assert len(ports) == WRITERS * each
    assert len({port.fixed_ips[0].address for port in ports}) == WRITERS * each
    assert len({port.mac_address for port in ports}) == WRITERS * each
    assert len({network.segmentation_id for network in networks}) == WRITERS * each + 1
    # Each write got a revision of its own, and there were no others.
    assert sorted(revisions) == list(range(before + 1, before + 2 * WRITERS * each + 1))


def test_the_last_addresses_of_a_pool_are_given_out_once_each(writers: list[Writer], now: Callable[[], Writer]) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    fields = SubnetFields(network="blue", cidr="10.0.0.0/24", allocation_pools=("10.0.0.10-10.0.0.13",), dhcp=False)
    writers[0].create_subnet("blue4", fields)
    errors = at_once(writers, lambda writer, n: writer.create_port(f"vm{n}", PortFields(network="blue")))
    assert len(errors) == WRITERS - 4
    assert all("no free address in the allocation pools of blue4" in str(err) for err in errors)
    given = [port.fixed_ips[0].address for port in now().list_ports()]
    assert Counter(given) == Counter(f"10.0.0.{number}" for number in range(10, 14))


def test_ports_and_a_subnet_that_begins_to_answer_dhcp_never_share_an_address(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    pool = ("10.0.0.10-10.0.0.14",)
    fields = SubnetFields(network="blue", cidr="10.0.0.0/24", allocation_pools=pool, dhcp=False)
    writers[0].create_subnet("blue4", fields)

    def work(writer: Writer, number: int) -> None:
        if number % 3:
            writer.create_port(f"vm{number}", PortFields(network="blue"))
        else:
            writer.set_subnet("blue4", SubnetFields(dhcp=True))

    assert at_once(writers, work) == []
    present = now()
    server = present.get_subnet("blue4").server_address
    given = [port.fixed_ips[0].address for port in present.list_ports()]
    assert len(given) == 4
    assert server is not None
    assert sorted([*given, server]) == [f"10.0.0.{number}" for number in range(10, 15)]


def test_a_metadata_service_is_named_once_by_whom(writers: list[Writer], now: Callable[[], Writer]) -> None:
    def work(writer: Writer, number: int) -> None:
        writer.set_metadata_service(MetadataServiceFields(url=f"http://nova{number}", secret_file=f"/{number}"))

    assert at_once(writers, work) == []
    named = now().get_metadata_service()
    assert named is not None
    assert named.url.removeprefix("http://nova") == named.secret_file.removeprefix("/")


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda writer, n: writer.create_network("same", NetworkFields(type="local")), "with this name already"),
        (
            lambda writer, n: writer.create_network(f"n{n}", NetworkFields(type="vxlan", segmentation_id=77)),
            "segmentation id 77 is in use by network n",
        ),
        (
            lambda writer, n: writer.create_port(
                f"p{n}", PortFields(network="blue", fixed_ips=(FixedIpRequest("10.0.0.99"),))
            ),
            "fixed ip 10.0.0.99 is in use by port p",
        ),
        (
            lambda writer, n: writer.create_port(f"p{n}", PortFields(network="blue", mac_address="fa:16:3e:00:00:01")),
            "mac_address fa:16:3e:00:00:01 is in use on network blue by port p",
        ),
        (
            lambda writer, n: writer.create_subnet(f"s{n}", SubnetFields(network="blue", cidr=f"10.1.0.0/{16 + n}")),
            "overlaps subnet s",
        ),
    ],
)
def test_of_several_that_want_the_same_one_gets_it_and_the_others_are_told(
    writers: list[Writer], now: Callable[[], Writer], work: Callable[[Writer, int], object], words: str
) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    writers[0].create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))
    before = writers[0].revision()[1]
    errors = at_once(writers, work)
    assert len(errors) == WRITERS - 1
    for err in errors:
        with pytest.raises(InputError, match=words):
            raise err
    assert now().revision()[1] == before + 1


def test_overlapping_prefixes_never_both_get_in(writers: list[Writer], now: Callable[[], Writer]) -> None:
    """No index can hold this: the transaction itself must look."""
    for round_number in range(5):
        network = f"n{round_number}"
        writers[0].create_network(network, NetworkFields(type="vxlan"))

        def work(writer: Writer, number: int, network: str = network) -> None:
            writer.create_subnet(f"{network}-s{number}", SubnetFields(network=network, cidr=f"10.0.0.0/{number + 20}"))

        assert len(at_once(writers, work)) == WRITERS - 1
        assert len(now().get_network(network).subnets) == 1


def test_a_network_is_not_deleted_under_a_port_that_is_being_made(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    for round_number in range(5):
        name = f"n{round_number}"
        writers[0].create_network(name, NetworkFields(type="vxlan"))

        def work(writer: Writer, number: int, name: str = name) -> None:
            if number % 2:
                writer.delete_network(name)
            else:
                writer.create_port(f"{name}-p{number}", PortFields(network=name))

        errors = [str(err) for err in at_once(writers, work)]
        networks = [network.name for network in now().list_networks()]
        made = [port for port in now().list_ports() if port.name.startswith(f"{name}-")]
        assert len(made) == (WRITERS // 2 if name in networks else 0)
        assert all("there is no network" in err or "is in use by port" in err for err in errors)


def test_every_port_has_an_address_of_an_automatic_subnet_that_came_meanwhile(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    writers[0].create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))

    def work(writer: Writer, number: int) -> None:
        if number == 0:
            writer.create_subnet("blue6", SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac"))
        else:
            for i in range(5):
                writer.create_port(f"vm-{number}-{i}", PortFields(network="blue"))

    assert at_once(writers, work) == []
    assert {len(port.fixed_ips) for port in now().list_ports()} == {2}


def test_writers_in_processes_of_their_own_and_threads_that_share_one(
    server: StoreServer, now: Callable[[], Writer]
) -> None:
    each, mine = 8, 30
    with Writer.connect([server.address], timeout=60) as writer:
        writer.create_network("blue", NetworkFields(type="vxlan"))
        writer.create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/22"))
        argv = [sys.executable, "-c", PROCESS, server.address]
        processes = [subprocess.Popen([*argv, str(who), str(each)]) for who in range(3)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(writer.create_port, f"here-{i}", PortFields(network="blue")) for i in range(mine)]
            assert len({job.result(60).revision for job in jobs}) == mine
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    present = now()
    assert present.revision()[1] == 2 + 3 * 2 * each + mine
    assert len({port.fixed_ips[0].address for port in present.list_ports()}) == 3 * each + mine
    assert_consistent(present)


def test_no_member_is_lost_while_many_write_ports_of_one_group(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    each = 4
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    writers[0].create_subnet("blue4", SubnetFields(network="blue", cidr="10.0.0.0/24"))

    def work(writer: Writer, number: int) -> None:
        for i in range(each):  # the first makes the project's default group
            writer.create_port(f"vm-{number}-{i}", PortFields(network="blue", project="p"))
        writer.set_port(f"vm-{number}-0", PortFields(security_groups=()))
        writer.delete_port(f"vm-{number}-1")

    assert at_once(writers, work) == []
    present = now()
    assert [group.project for group in present.list_security_groups()] == ["p"]
    told = present.read(
        lambda view: Counter(
            address for row in view.rows("Address_Chunk") for address in Counter(row.addresses).elements()
        )
    )
    ports = [port for port in present.list_ports() if port.security_groups]
    assert sorted(told) == sorted(fixed_ip.address for port in ports for fixed_ip in port.fixed_ips)


def test_of_rules_that_many_set_those_of_one_are_left(writers: list[Writer], now: Callable[[], Writer]) -> None:
    writers[0].create_security_group("web", SecurityGroupFields(rules=()))

    def rule(port: int) -> RuleFields:
        return RuleFields(direction="ingress", ethertype="IPv4", protocol="tcp", ports=port)

    def work(writer: Writer, number: int) -> None:
        for _ in range(5):
            writer.set_security_group("web", SecurityGroupFields(rules=(rule(1), rule(10 + number), rule(20 + number))))

    assert at_once(writers, work) == []
    ports = [rule.port_range_min for rule in now().list_security_group_rules("web")]
    assert ports == [1, ports[1], (ports[1] or 0) + 10]


def test_a_rule_that_many_add_is_there_once(writers: list[Writer], now: Callable[[], Writer]) -> None:
    writers[0].create_security_group("web", SecurityGroupFields(rules=()))
    rule = RuleFields(direction="ingress", protocol="tcp", ports="80-90")
    errors = at_once(writers, lambda writer, _: writer.add_security_group_rule("web", rule))
    assert len(errors) == len(writers) - 1
    assert "the group has this rule already" in str(errors[0])
    assert len(now().list_security_group_rules("web")) == 2


def test_addresses_set_at_the_same_time_are_those_of_one_writer(
    writers: list[Writer], now: Callable[[], Writer]
) -> None:
    many = {f"10.1.{n // 250}.{n % 250}" for n in range(1000)}
    # Of different chunks: else the two writers would meet anyway.
    low, high = (next(a for a in sorted(many) if address_bits(a).startswith(bit)) for bit in "01")
    writers[0].create_address_group("office", AddressGroupFields(addresses=tuple(many)))
    other = AddressGroupFields(addresses=tuple(many - {low}))
    meanwhile = iter([lambda: writers[1].set_address_group("office", other)])

    def build(session: Session) -> None:
        row = session.find("address_group", "office")
        ours = AddressGroupFields(addresses=tuple(many - {high}))
        writer_kinds.change(session, writer_kinds.ADDRESS_GROUP, row, ours, UNSET)
        for write in meanwhile:  # once; what it writes is not in this session's rows
            write()

    writers[0].write(build)
    assert set(now().get_address_group("office").addresses) == many - {high}


def test_members_follow_a_port_whose_groups_and_addresses_different_writers_change(writers: list[Writer]) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    writers[0].create_security_group("web", SecurityGroupFields())
    writers[0].create_port("vm1", PortFields(network="blue", security_groups=("web",)))

    def work(writer: Writer, number: int) -> None:
        for turn in range(12):
            if number % 2:
                writer.set_port("vm1", PortFields(security_groups=("web",) if turn % 2 else ()))
            else:
                writer.set_port("vm1", PortFields(allowed_address_pairs=(f"10.{number}.{turn}.0/24",)))

    assert at_once(writers, work) == []  # the members are compared with the port when the fixture ends


def test_a_group_is_given_to_a_port_or_deleted(writers: list[Writer], now: Callable[[], Writer]) -> None:
    writers[0].create_network("blue", NetworkFields(type="vxlan"))
    for n in range(WRITERS):
        writers[0].create_security_group(f"web{n}", SecurityGroupFields())

    def work(writer: Writer, number: int) -> None:
        group = f"web{number // 2}"
        if number % 2:
            writer.create_port(f"vm{number}", PortFields(network="blue", security_groups=(group,)))
        else:
            writer.delete_security_group(group)

    errors = at_once(writers, work)
    present = now()
    used = {name for port in present.list_ports() for name in port.security_groups or ()}
    left = {group.name for group in present.list_security_groups()} - {f"web{n}" for n in range(WRITERS // 2, WRITERS)}
    assert used == left
    assert len(errors) == WRITERS // 2
