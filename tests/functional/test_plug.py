# SPDX-License-Identifier: Apache-2.0
"""Plug and unplug against a real kernel and a real Open vSwitch: does traffic pass, and what is left behind?"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.cli.plug_devices import NETNS_FOLDER, Plug, PortView
from agent.cli.plug_many import plug, plug_many, unplug
from agent.cli.plug_switch import Switch
from agent.core import naming
from agent.core.errors import ApplyError, InputError
from agent.namespace import inside
from tests.servers import StoreServer

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BIG = bytes(range(256)) * 1024


def run(*argv: str, **options) -> str:
    return str(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30, **options).stdout)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Lab:
    """A host: a namespace with Open vSwitch, and instances' namespaces beside it."""

    name: str
    folder: Path
    switch: Switch

    def namespace(self, label: str) -> Path:
        """Make a namespace; the fixture takes it away."""
        name = f"{self.name}-{label}"
        run("ip", "netns", "add", name)
        return NETNS_FOLDER / name

    def vsctl(self, *words: str) -> str:
        return run("ovs-vsctl", "--timeout=10", f"--db=unix:{self.folder}/db.sock", *words)

    def ports(self) -> set[str]:
        return set(self.vsctl("list-ports", "br-int").split())

    @contextlib.contextmanager
    def on_host(self) -> Iterator[None]:
        with (NETNS_FOLDER / self.name).open("rb") as namespace, inside(namespace.fileno()):
            yield

    def read(self, path: str) -> str:
        return run("ip", "netns", "exec", self.name, "cat", path).strip()

    def devices(self) -> set[str]:
        listing = run("ip", "-netns", self.name, "-o", "link")
        return {line.split(": ")[1].split("@")[0] for line in listing.splitlines()}

    def plug(self, wish: Plug) -> None:
        with self.on_host():
            plug(wish, self.switch)

    def unplug(self, wish: Plug) -> list[str]:
        with self.on_host():
            return unplug(wish.port.id, self.switch)


@contextlib.contextmanager
def open_vswitch(folder: Path, namespace: str) -> Iterator[None]:
    environment = {**os.environ, **{f"OVS_{what}DIR": str(folder) for what in ("RUN", "DB", "LOG", "SYSCONF")}}
    run("ovsdb-tool", "create", str(folder / "conf.db"), str(SCHEMA))
    enter = ["nsenter", f"--net={NETNS_FOLDER / namespace}"]
    quiet = ["--verbose=console:off", "--verbose=syslog:off", f"--log-file={folder}/log"]
    database = ["ovsdb-server", f"--remote=punix:{folder}/db.sock", *quiet, str(folder / "conf.db")]
    switch = ["ovs-vswitchd", f"unix:{folder}/db.sock", "--disable-system", *quiet]
    with contextlib.ExitStack() as stack:
        for argv in (database, switch):
            process = subprocess.Popen([*enter, *argv], env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_until((folder / "db.sock").exists, "the database's socket")
        yield


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    name = f"hpcl-{uuid.uuid4().hex[:6]}"
    folder = Path("/tmp") / name  # a socket's path must be short
    folder.mkdir()
    run("ip", "netns", "add", name)
    run("ip", "-netns", name, "link", "set", "lo", "up")
    try:
        with open_vswitch(folder, name):
            lab = Lab(name, folder, Switch(f"unix:{folder}/db.sock"))
            lab.vsctl("init")
            # Open vSwitch's own forwarding stands in for the agent's flows.
            lab.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
            yield lab
    finally:
        for path in NETNS_FOLDER.glob(f"{name}*"):
            run("ip", "netns", "del", path.name)
        shutil.rmtree(folder)


def port(number: int, **changes) -> PortView:
    view = PortView(
        id=str(uuid.uuid4()),
        name=f"vm{number}",
        mac=f"fa:16:3e:00:00:{number:02x}",
        mtu=1450,
        addresses=(f"10.0.0.{number}/24", f"2001:db8::{number:x}/64"),
        gateways=("10.0.0.254", "2001:db8::fe"),
    )
    return dataclasses.replace(view, **changes)


def transfer(server: Path, client: Path, address: str) -> bytes:
    """Send BIG over TCP from *client* to *address* in *server*; return what arrived."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.open("rb") as namespace, inside(namespace.fileno()):
        listener = socket.create_server((address, 8080), family=family)
    received = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while block := connection.recv(65536):
                received.extend(block)

    listener.settimeout(10)
    thread = threading.Thread(target=serve)
    thread.start()
    with client.open("rb") as namespace, inside(namespace.fileno()):
        sender = socket.socket(family, socket.SOCK_STREAM)
    with sender:
        sender.settimeout(10)
        sender.connect((address, 8080))
        sender.sendall(BIG)
    thread.join(15)
    listener.close()
    return bytes(received)


@pytest.mark.parametrize("hybrid", [False, True], ids=["direct", "hybrid"])
def test_plugged_namespaces_exchange_tcp_at_once(lab: Lab, hybrid: bool) -> None:
    one, two = lab.namespace("one"), lab.namespace("two")
    lab.plug(Plug(port(1), one, hybrid=hybrid))
    lab.plug(Plug(port(2), two, hybrid=hybrid))
    for address in ("10.0.0.1", "2001:db8::1"):
        assert transfer(one, two, address) == BIG
    # Full-size packets of the network's MTU pass, larger ones are refused where they are sent.
    run("ip", "netns", "exec", two.name, "ping", "-M", "do", "-c1", "-W5", "-s", "1422", "10.0.0.1")
    with pytest.raises(subprocess.CalledProcessError):
        run("ip", "netns", "exec", two.name, "ping", "-M", "do", "-c1", "-W1", "-s", "1423", "10.0.0.1")


def test_the_namespace_gets_what_the_port_says(lab: Lab) -> None:
    namespace = lab.namespace("one")
    lab.plug(Plug(port(7), namespace, device="net0"))
    link = run("ip", "-netns", namespace.name, "link", "show", "net0")
    assert "fa:16:3e:00:00:07" in link
    assert "mtu 1450" in link
    addresses = run("ip", "-netns", namespace.name, "-o", "address", "show", "dev", "net0")
    assert "inet 10.0.0.7/24" in addresses
    assert "inet6 2001:db8::7/64" in addresses
    assert "tentative" not in addresses
    assert "via 10.0.0.254 dev net0" in run("ip", "-netns", namespace.name, "-4", "route", "show", "default")
    assert "via 2001:db8::fe dev net0" in run("ip", "-netns", namespace.name, "-6", "route", "show", "default")


def test_a_gateway_outside_the_prefix_is_reached_on_the_link(lab: Lab) -> None:
    namespace = lab.namespace("one")
    lab.plug(Plug(port(7, addresses=("10.9.9.9/32",), gateways=("169.254.1.1",)), namespace))
    route = run("ip", "-netns", namespace.name, "route", "show", "default")
    assert "via 169.254.1.1 dev eth0" in route
    assert "onlink" in route


@pytest.mark.parametrize("hybrid", [False, True], ids=["direct", "hybrid"])
def test_the_interface_names_the_port_and_everything_goes_again(lab: Lab, hybrid: bool) -> None:
    before = lab.devices()
    wish = Plug(port(1), lab.namespace("one"), hybrid=hybrid)
    lab.plug(wish)
    assert lab.ports() == {wish.switch_device}
    ids = lab.vsctl("get", "Interface", wish.switch_device, "external_ids")
    assert f'iface-id="{wish.port.id}"' in ids
    assert 'attached-mac="fa:16:3e:00:00:01"' in ids
    assert "iface-status=active" in ids
    assert lab.unplug(wish)
    assert lab.ports() == set()
    assert lab.devices() == before
    assert lab.unplug(wish) == []


@pytest.mark.parametrize("hybrid", [False, True], ids=["direct", "hybrid"])
def test_plugging_again_keeps_the_devices_and_repairs_what_is_wrong(lab: Lab, hybrid: bool) -> None:
    one, two = lab.namespace("one"), lab.namespace("two")
    wish = Plug(port(1), one, hybrid=hybrid)
    lab.plug(wish)
    lab.plug(Plug(port(2), two))
    index = run("ip", "-netns", one.name, "-o", "link", "show", "eth0").split(":")[0]
    run("ip", "-netns", one.name, "link", "set", "eth0", "down", "address", "fa:16:3e:99:99:99", "mtu", "900")
    run("ip", "-netns", one.name, "address", "flush", "dev", "eth0")
    run("ip", "-netns", one.name, "address", "add", "10.0.0.99/24", "dev", "eth0")  # an address that it had once
    run("ip", "-netns", one.name, "address", "add", "192.168.7.7/24", "dev", "eth0")  # the instance's own affair
    lab.vsctl("del-port", "br-int", wish.switch_device)
    lab.plug(wish)
    assert run("ip", "-netns", one.name, "-o", "link", "show", "eth0").split(":")[0] == index
    addresses = run("ip", "-netns", one.name, "-o", "-4", "address", "show", "dev", "eth0")
    assert "10.0.0.1/24" in addresses
    assert "192.168.7.7/24" in addresses
    assert "10.0.0.99" not in addresses
    assert transfer(one, two, "10.0.0.1") == BIG


def test_a_namespace_that_was_made_anew_is_plugged_again(lab: Lab) -> None:
    wish = Plug(port(1), lab.namespace("one"))
    lab.plug(wish)
    run("ip", "netns", "del", wish.netns.name)
    wait_until(lambda: wish.switch_device not in lab.devices(), "the device goes with its namespace")
    lab.namespace("one")
    lab.plug(wish)
    other = lab.namespace("two")
    lab.plug(Plug(port(2), other))
    assert transfer(wish.netns, other, "10.0.0.1") == BIG


def test_what_a_lost_namespace_leaves_on_the_switch_is_unplugged(lab: Lab) -> None:
    wish = Plug(port(1), lab.namespace("one"))
    lab.plug(wish)
    run("ip", "netns", "del", wish.netns.name)
    wait_until(lambda: wish.switch_device not in lab.devices(), "the device goes with its namespace")
    assert lab.unplug(wish) == [wish.switch_device]
    assert lab.ports() == set()


def test_the_plug_may_change_its_kind_and_the_instance_keeps_its_device(lab: Lab) -> None:
    one, two = lab.namespace("one"), lab.namespace("two")
    direct = Plug(port(1), one)
    hybrid = dataclasses.replace(direct, hybrid=True)
    lab.plug(Plug(port(2), two))
    indexes = set()
    for wish in (direct, hybrid, direct):
        lab.plug(wish)
        assert wish.switch_device in lab.ports()
        assert len(lab.ports()) == 2
        assert transfer(one, two, "10.0.0.1") == BIG
        indexes.add(run("ip", "-netns", one.name, "-o", "link", "show", "eth0").split(":")[0])
    assert len(indexes) == 1


# What filters in a bridge rely on, whatever somebody has done to it since.
BRIDGE_SETTINGS = {
    "nf_call_iptables": "1",
    "nf_call_ip6tables": "1",
    "ageing_time": "0",
    "multicast_snooping": "0",
    "group_fwd_mask": "0x0",
    "stp_state": "0",
    "forward_delay": "0",
}


def test_the_bridge_of_a_hybrid_plug_filters_and_repeats_everything(lab: Lab) -> None:
    wish = Plug(port(1), lab.namespace("one"), hybrid=True)
    lab.plug(wish)
    bridge = naming.hybrid_bridge_name(wish.port.id)
    qvb, qvo = naming.hybrid_veth_names(wish.port.id)
    tap = naming.tap_name(wish.port.id)
    folder = f"/sys/class/net/{bridge}/bridge"

    def settings() -> dict[str, str]:
        return {name: lab.read(f"{folder}/{name}") for name in BRIDGE_SETTINGS}

    assert settings() == BRIDGE_SETTINGS
    assert set(run("ip", "netns", "exec", lab.name, "ls", f"/sys/class/net/{bridge}/brif").split()) == {tap, qvb}
    for device in (tap, bridge, qvb, qvo):
        assert lab.read(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6") == "1"
    flags = [
        f"{name} {value}" for name, value in (("nf_call_iptables", 0), ("ageing_time", 30000), ("mcast_snooping", 1))
    ]
    run("ip", "-netns", lab.name, "link", "set", bridge, "type", "bridge", *" ".join(flags).split())
    lab.plug(wish)
    assert settings() == BRIDGE_SETTINGS


def test_a_port_is_in_one_namespace_only(lab: Lab) -> None:
    view = port(1)
    one, two = lab.namespace("one"), lab.namespace("two")
    lab.plug(Plug(view, one))
    with pytest.raises(InputError, match=f"port vm1: is plugged into namespace {one.name} already"):
        lab.plug(Plug(view, two))
    with pytest.raises(InputError, match="as eth0 already"):
        lab.plug(Plug(view, one, device="eth1"))


def test_unknown_namespace_and_occupied_device_are_named(lab: Lab) -> None:
    with pytest.raises(InputError, match="no network namespace nowhere"):
        lab.plug(Plug(port(1), NETNS_FOLDER / "nowhere"))
    one = lab.namespace("one")
    lab.plug(Plug(port(1), one))
    with pytest.raises(InputError, match=r"port vm2: namespace .* has a device eth0 already"):
        lab.plug(Plug(port(2), one))
    assert len(lab.ports()) == 1


def test_foreign_devices_and_interfaces_stay_as_they_are(lab: Lab) -> None:
    view = port(1)
    tap = naming.tap_name(view.id)
    run("ip", "-netns", lab.name, "link", "add", tap, "type", "veth", "peer", "foreign")
    lab.vsctl("add-port", "br-int", tap, "--", "set", "Interface", tap, f"external_ids:iface-id={view.id}")
    wish = Plug(view, lab.namespace("one"))
    with pytest.raises(InputError, match="was not made by hostplane plug"):
        lab.plug(wish)
    with pytest.raises(InputError, match="was not made by hostplane plug"):
        lab.unplug(wish)
    assert tap in lab.devices()
    assert lab.ports() == {tap}


def test_a_port_that_nova_has_plugged_is_refused(lab: Lab) -> None:
    view = port(1)
    lab.vsctl("add-port", "br-int", "vnet0", "--", "set", "Interface", "vnet0", f"external_ids:iface-id={view.id}")
    with pytest.raises(InputError, match="is plugged as vnet0 on br-int already"):
        lab.plug(Plug(view, lab.namespace("one")))


def test_the_host_itself_does_not_answer_its_instances(lab: Lab) -> None:
    """With the userspace datapath the host's stack sees the instance's frames as well."""
    run("ip", "-netns", lab.name, "link", "add", "hpcl-a", "type", "veth", "peer", "hpcl-b")
    run("ip", "-netns", lab.name, "link", "set", "hpcl-a", "up")
    run("ip", "-netns", lab.name, "address", "add", "10.0.0.200/24", "dev", "hpcl-a")
    wish = Plug(port(1), lab.namespace("one"))
    lab.plug(wish)
    mac = bytes.fromhex(lab.read(f"/sys/class/net/{wish.switch_device}/address").replace(":", ""))
    eui64 = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    link_local = str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui64))
    lab.vsctl("set-fail-mode", "br-int", "secure")  # nothing passes the switch
    wait_until(lambda: "NORMAL" not in dump_flows(lab), "the switch is closed")
    for address in ("10.0.0.200", f"{link_local}%eth0"):
        with pytest.raises(subprocess.CalledProcessError):
            run("ip", "netns", "exec", wish.netns.name, "ping", "-c2", "-i0.2", "-W1", address)


def dump_flows(lab: Lab) -> str:
    return run("ovs-ofctl", "dump-flows", f"unix:{lab.folder}/br-int.mgmt")


def test_one_bad_port_of_many_hinders_no_other(lab: Lab) -> None:
    good = [Plug(port(number), lab.namespace(f"n{number}")) for number in range(1, 6)]
    bad = Plug(port(9), NETNS_FOLDER / "nowhere")
    with lab.on_host():
        failed = plug_many([good[0], bad, *good[1:]], lab.switch)
    assert set(failed) == {bad.port.id}
    assert lab.ports() == {wish.switch_device for wish in good}
    assert transfer(good[0].netns, good[4].netns, "10.0.0.1") == BIG


def test_the_command_plugs_what_the_store_says_and_refuses_what_belongs_elsewhere(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVS_RUNDIR", str(lab.folder))

    def hostplane(*words: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with lab.on_host():
            status = main(["--store", server.address, "--socket", "/nonexistent", *words])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, printed.out, printed.err)

    one, two = lab.namespace("one"), lab.namespace("two")
    with StoreServer(lab.folder) as server:
        hostplane("network", "create", "blue", "--type", "vxlan", "--mtu", "1400")
        hostplane("subnet", "create", "blue4", "--network", "blue", "--cidr", "10.0.0.0/24")
        hostplane("subnet", "create", "blue6", "--network", "blue", "--cidr", "2001:db8::/64", "--ipv6-mode", "slaac")
        for name, number in (("vm1", 1), ("vm2", 2)):
            hostplane("port", "create", name, "--network", "blue", "--host", "host1", "--fixed-ip", f"10.0.0.1{number}")
        plugged = hostplane("plug", "vm1", "--netns", one.name, "--as-host", "host1")
        assert plugged.returncode == 0, plugged.stderr
        assert plugged.stdout.startswith(f"port vm1 is eth0 of namespace {one.name}, tap")
        assert hostplane("plug", "vm2", "--netns", str(two), "--as-host", "host1", "--hybrid").returncode == 0
        assert transfer(one, two, "10.0.0.11") == BIG
        assert "mtu 1400" in run("ip", "-netns", one.name, "link", "show", "eth0")

        elsewhere = hostplane("plug", "vm1", "--netns", one.name, "--as-host", "host2")
        assert elsewhere.returncode == 1
        assert elsewhere.stderr == "hostplane: port vm1: its host is host1, this one is host2; plug it there\n"
        nowhere = hostplane("plug", "vm1", "--netns", "nowhere", "--as-host", "host1")
        assert nowhere.stderr.startswith("hostplane: port vm1: there is no network namespace nowhere")
        unsure = hostplane("plug", "vm1", "--netns", one.name)
        assert unsure.returncode == 0
        assert "cannot tell whether port vm1 belongs here" in unsure.stderr

        hostplane("port", "set", "vm1", "--no-security-groups")
        shut = hostplane("plug", "vm1", "--netns", one.name, "--as-host", "host1", "--direct")
        assert "port vm1 has security groups: plugged directly it stays shut" in shut.stderr
        assert "tap" in shut.stdout
        filtered = hostplane("plug", "vm1", "--netns", one.name, "--as-host", "host1")
        assert (filtered.returncode, filtered.stderr) == (0, "")
        assert ", qvo" in filtered.stdout
        assert transfer(one, two, "10.0.0.11") == BIG  # Open vSwitch's own forwarding filters nothing

        assert "removed " in hostplane("unplug", "vm1").stdout
        assert hostplane("unplug", "vm1").stdout == "port vm1 was not plugged\n"
        vm2 = json.loads(hostplane("port", "show", "vm2", "-o", "json").stdout)["id"]
        hostplane("port", "delete", "vm2")
        assert hostplane("unplug", "vm2").returncode == 1
    assert hostplane("unplug", vm2).returncode == 0  # by its id, though the store is away
    assert lab.ports() == set()


def test_a_switch_that_is_away_is_one_clear_error(lab: Lab) -> None:
    away = Switch(f"unix:{lab.folder}/no.sock")
    with lab.on_host(), pytest.raises(ApplyError, match=r"Open vSwitch: .*database connection failed"):
        plug(Plug(port(1), lab.namespace("one")), away)
