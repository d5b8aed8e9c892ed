# SPDX-License-Identifier: Apache-2.0
"""Real clients of DHCP, router advertisements and metadata, each run in an instance with a root of its own.

The instance is a network namespace; the rest of the machine is lent to the client by
``client_box.sh``, so that what it writes to ``/etc``, ``/run`` and ``/var`` stays with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.functional.lab import HERE, Lab, eventually

DEVICE = "eth0"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
NETWORKD = "/lib/systemd/systemd-networkd"
PACKAGES = {
    "cloud-init": "cloud-init",
    "curl": "curl",
    "dhclient": "isc-dhcp-client",
    "dhcpcd": "dhcpcd-base",
    "udhcpc": "udhcpc",
    NETWORKD: "systemd",
}
PATIENCE = 15.0  # seconds that a client may take

# Does what Debian's script does, then shows what became of the name servers, and what the client said, NAME=VALUE.
_RECORDER = """#!/bin/sh
env > "/tmp/box/.$$"
{script} "$@"
status=$?
cat /etc/resolv.conf > "/tmp/box/resolv.conf"
mv "/tmp/box/.$$" "/tmp/box/{event}"
exit $status
"""
_NETWORK = """[Match]
Name=eth0
[Network]
DHCP=yes
IPv6AcceptRA=yes
[DHCPv4]
ClientIdentifier=mac
UseMTU=yes
[IPv6AcceptRA]
UseDomains=yes
"""
# None of its modules: they would set the machine up.  What is asked here is only what it finds.
_CLOUD = """datasource_list: [{source}]
datasource: {{Ec2: {{strict_id: false, max_wait: 10, timeout: 5}}, OpenStack: {{max_wait: 10, timeout: 5}}}}
cloud_init_modules: []
cloud_config_modules: []
cloud_final_modules: []
network: {{config: disabled}}
users: []
disable_root: false
"""
_CLOUD_RUN = """cp /tmp/box/cloud.cfg /etc/cloud/cloud.cfg
rm -rf /etc/cloud/cloud.cfg.d /etc/cloud/cloud-init.disabled /var/lib/cloud /run/cloud-init
cloud-init init {stage} > /tmp/box/output 2>&1
status=$?
cp /var/log/cloud-init.log /run/cloud-init/instance-data.json /tmp/box/
cp /var/lib/cloud/instance/*-data.txt /tmp/box/ 2>/dev/null
exit $status
"""


def require(program: str) -> None:
    """Fail if *program* is not on the machine: a test that does not run proves nothing."""
    found = shutil.which(program, path=ENVIRONMENT["PATH"])
    assert found, f"{program} is missing: install the Debian package {PACKAGES[program]} (make install)"


def forget(lab: Lab, instance: str) -> None:
    """Take from an instance the addresses, routes and MTU that it has: it knows its MAC address and no more."""
    for words in ("address flush dev eth0 scope global", "-6 route flush exact default dev eth0"):
        lab.run(instance, "ip", *words.split())
    lab.output(instance, "ip", "link", "set", DEVICE, "mtu", "1500")


class Box:
    """What a client sees as its machine.  ``folder`` is what both see; in the box it is ``/tmp/box``."""

    def __init__(self, lab: Lab, instance: str, folder: Path) -> None:
        self.folder = folder / f"{instance}-{len(list(folder.iterdir()))}"
        self.folder.mkdir()
        self.folder.chmod(0o777)  # clients give up their privileges
        self._lab = lab
        self._instance = instance

    def argv(self, words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """Return what runs *words* in the box; everything that they start ends with them."""
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        clean = ["env", "-i", *(f"{name}={value}" for name, value in {**ENVIRONMENT, **environment}.items())]
        box = [*unshare, "sh", str(HERE / "client_box.sh"), str(self.folder), *clean, *words]
        return self._lab.argv(self._instance, *box)

    def run(self, *words: str, timeout: float = PATIENCE, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        argv = self.argv(words, environment)
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[Path]:
        """Run a daemon meanwhile; yields a path to its root."""
        # A shell stays the first process: its root is the box's, whatever jail the daemon goes into.
        argv = self.argv(["sh", "-c", '"$@" & wait', "sh", *words], {})
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            eventually(lambda: process.poll() is not None or bool(children.read_text()), "the box is there")
            yield Path(f"/proc/{children.read_text().split()[0]}/root")
        finally:
            process.kill()
            process.wait()

    def script(self, name: str, text: str) -> str:
        """Put a program into the box; return its path there."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return f"/tmp/box/{name}"

    def recorder(self, event: str, script: str) -> str:
        """Put a script into the box that writes down what it was told, when it has done it; *event* names the file."""
        return self.script("recorder", _RECORDER.format(event=event, script=script))

    def resolver(self) -> str:
        """Return what the last event has made of ``/etc/resolv.conf``."""
        return (self.folder / "resolv.conf").read_text()

    def said(self, event: str) -> dict[str, str] | None:
        """Return what the client told its script at an event, None if it has not come to that."""
        path = self.folder / event
        if not path.exists():
            return None
        return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)

    def wait(self, event: str) -> dict[str, str]:
        """Return what the client tells its script at an event, when it comes to that."""
        deadline = time.monotonic() + PATIENCE
        while (told := self.said(event)) is None:
            log = self.log()[-4000:]
            assert time.monotonic() < deadline, f"{self._instance}: no {event} within {PATIENCE:g} s; it says:\n{log}"
            time.sleep(0.02)
        return told

    def log(self) -> str:
        """Return what a daemon has written."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


def udhcpc(lab: Lab, instance: str, folder: Path, *options: str) -> dict[str, str]:
    """Get an IPv4 address by busybox's client; return what it told its script (``udhcpc -s``)."""
    require("udhcpc")
    box = Box(lab, instance, folder)
    script = box.recorder("$1", "/etc/udhcpc/default.script")
    # One discover a second, three of them, and then it gives up.
    done = box.run("udhcpc", "-f", "-q", "-n", "-t3", "-T1", "-i", DEVICE, "-s", script, *options)
    bound = box.said("bound")
    assert bound is not None, f"udhcpc in {instance}: {done.stderr}"
    return bound


@contextlib.contextmanager
def dhclient(
    lab: Lab, instance: str, folder: Path, version: int = 4, *, event: str = "", options: Sequence[str] = ()
) -> Iterator[tuple[dict[str, str], str]]:
    """Run ISC dhclient until it is bound; yield what its script was told (dhclient-script(8)), and its name servers.

    With ``-S`` in *options* it asks by DHCPv6 for everything but an address, and *event* is another.
    """
    require("dhclient")
    box = Box(lab, instance, folder)
    # dhclient cuts its variables' values to what is harmless in a shell, so a line is a value.
    script = box.recorder("$reason", "/sbin/dhclient-script")
    event = event or {4: "BOUND", 6: "BOUND6"}[version]
    words = [f"-{version}", "-1", "-v", "-d", "-lf", "/tmp/leases", "-pf", "/tmp/pid", "-sf", script, *options, DEVICE]
    with box.running("sh", "-c", 'touch /tmp/leases; exec dhclient "$@"', "dhclient", *words):
        yield box.wait(event), box.resolver()


@contextlib.contextmanager
def dhcpcd(lab: Lab, instance: str, folder: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Run dhcpcd for IPv6 until it is bound; yield what its hooks were told (dhcpcd-run-hooks(8)), and name servers."""
    require("dhcpcd")
    box = Box(lab, instance, folder)
    script = box.recorder("$reason", "/usr/lib/dhcpcd/dhcpcd-run-hooks")
    with box.running("dhcpcd", "-B", "-6", "-d", "-c", script, DEVICE):
        yield box.wait("BOUND6"), box.resolver()


@dataclass(frozen=True, slots=True)
class Networkd:
    """What systemd-networkd knows of ``eth0``: its state and its DHCPv4 lease (both files are its own)."""

    link: Mapping[str, str]
    lease: Mapping[str, str]


@contextlib.contextmanager
def networkd(
    lab: Lab, instance: str, folder: Path, *, wanted: Sequence[str], resolvers: Sequence[str]
) -> Iterator[Networkd]:
    """Run systemd-networkd until it has all addresses that are *wanted* and *resolvers*; yield what it knows then."""
    require(NETWORKD)
    box = Box(lab, instance, folder)
    box.script("10-eth0.network", _NETWORK)
    start = "mkdir -p -m 755 /run/systemd /etc/systemd/network && cp /tmp/box/*.network /etc/systemd/network/"
    start += f" && exec {NETWORKD}"
    with box.running("sh", "-c", start) as root:
        index = lab.output(instance, "ip", "-o", "link", "show", DEVICE).split(":")[0]

        def addresses() -> str:
            return lab.output(instance, "ip", "-o", "address", "show", "dev", DEVICE)

        def has_all() -> bool:
            known = _variables(state("links")).get("DNS", "").split()  # the last that it writes down
            return all(f" {address}/" in addresses() for address in wanted) and set(resolvers) <= set(known)

        def state(kind: str) -> str:
            path = root / "run/systemd/netif" / kind / index
            return path.read_text() if path.exists() else ""

        eventually(has_all, f"systemd-networkd in {instance} has {wanted}, {resolvers}", PATIENCE)
        link, lease = (_variables(state(kind)) for kind in ("links", "leases"))
        yield Networkd(link, lease)


@dataclass(frozen=True, slots=True)
class CloudInit:
    """What cloud-init found: ``data`` is its instance-data.json."""

    data: Mapping[str, object]
    user_data: str
    vendor_data: str
    log: str

    def standard(self, key: str) -> object:
        """Return one of the values that cloud-init gives for every cloud (its ``v1``)."""
        values = self.data["v1"]
        assert isinstance(values, dict)
        return values[key]


def cloud_init(lab: Lab, instance: str, folder: Path, source: str, *, local: bool = False) -> CloudInit:
    """Let cloud-init find itself by data source *source* (``OpenStack``, ``Ec2``).

    In its *local* stage it has no address yet, asks DHCP for one by itself, and leaves user data for later.
    """
    require("cloud-init")
    box = Box(lab, instance, folder)
    box.script("cloud.cfg", _CLOUD.format(source=source))
    run = box.script("run", _CLOUD_RUN.format(stage="--local" if local else ""))
    # As on a virtual machine of Nova's, by which cloud-init knows that it may ask; the box has no DMI.
    done = box.run("sh", run, timeout=60, product_name="OpenStack Nova")
    output = (box.folder / "output").read_text() if (box.folder / "output").exists() else done.stderr
    assert done.returncode == 0, f"cloud-init ({source}) in {instance}: {output[-4000:]}"
    data = json.loads((box.folder / "instance-data.json").read_text())
    user_data, vendor_data, log = (
        path.read_text() if (path := box.folder / name).exists() else ""
        for name in ("user-data.txt", "vendor-data.txt", "cloud-init.log")
    )
    return CloudInit(data, user_data, vendor_data, log)


def _variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
