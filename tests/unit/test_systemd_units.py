# SPDX-License-Identifier: Apache-2.0
"""The units as systemd's own checker reads them, and the scripts beside them against a real database."""

import configparser
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.command import CommandRunner
from agent.responder.protocol import SOCKET_NAME
from agent.store import connection_version, offline

REPOSITORY = Path(__file__).parents[2]
SYSTEMD = REPOSITORY / "systemd"
SCHEMA = REPOSITORY / "agent" / "store" / "hostplane.ovsschema"
UNITS = (
    "hostplane-agent.service",
    "hostplane-store.service",
    "hostplane-responder.service",
    "hostplane-responder.socket",
)

# What systemd 252 sets up a mount namespace for (its exec_needs_mount_namespace), and credentials.
MAKES_A_MOUNT_NAMESPACE = {
    *("RootDirectory", "RootImage", "RootHash", "MountImages", "ExtensionImages", "ExtensionDirectories", "MountFlags"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths"),
    *("BindReadOnlyPaths", "TemporaryFileSystem", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC"),
    *("ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs"),
    *("ProtectControlGroups", "ProtectProc", "ProcSubset", "MountAPIVFS", "IPCNamespacePath", "LogNamespace"),
    *("DynamicUser", "LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted"),
    *("NetworkNamespacePath", "PrivateNetwork", "PrivateUsers"),  # the daemon must be in the host's
}


def run(*argv, env=None, check=True):
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    return subprocess.run(
        [str(arg) for arg in argv], capture_output=True, text=True, check=check, env=environment, timeout=60
    )


@pytest.fixture
def installed(tmp_path):
    """Units as ``systemd/install`` writes them, below a directory, with programs that are there."""
    bindir = tmp_path / "venv" / "bin"
    bindir.mkdir(parents=True)
    for name in ("hostplane-agent", "python"):
        (bindir / name).write_text("#!/bin/sh\n")
        (bindir / name).chmod(0o755)
    root = tmp_path / "root"
    run(SYSTEMD / "install", "--bindir", bindir, "--destdir", root, "--flow-restore-wait")
    units = root / "etc/systemd/system"
    for file in units.rglob("*"):
        if file.is_file():
            file.write_text(file.read_text().replace("/usr/lib/hostplane/", f"{root}/usr/lib/hostplane/"))
    return units


def service(path):
    """Return the ``[Service]`` section, the values of repeated keys joined."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(installed, unit):
    done = run("systemd-analyze", "verify", "--man=no", installed / unit, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_systemd_finds_nothing_wrong_with_the_drop_in(installed):
    packaged = Path("/lib/systemd/system/ovs-vswitchd.service")
    (installed / packaged.name).write_text(packaged.read_text())
    done = run("systemd-analyze", "verify", "--man=no", installed / packaged.name, check=False)
    ours = [line for line in done.stderr.splitlines() if "hostplane" in line or "flow-restore" in line]
    assert ours == []


def test_the_installed_units_start_what_was_installed(installed):
    assert service(installed / UNITS[0])["ExecStart"].startswith(f"{installed.parents[3]}/venv/bin/hostplane-agent ")
    text = (installed / UNITS[1]).read_text()
    assert f"ExecCondition=+{installed.parents[3]}/venv/bin/python -m agent.config --embedded-store" in text


def test_the_agent_stays_in_the_mount_namespace_of_the_host():
    options = set(service(SYSTEMD / UNITS[0]))
    assert options & MAKES_A_MOUNT_NAMESPACE == set()


def test_the_agent_is_watched_and_notifies():
    unit = service(SYSTEMD / UNITS[0])
    assert (unit["Type"], unit["NotifyAccess"], unit["WatchdogSec"]) == ("notify", "main", "30")
    assert unit["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize(("unit", "limit"), [(UNITS[0], 52), (UNITS[1], 25), (UNITS[2], 17)])
def test_the_exposure_does_not_grow(installed, unit, limit):
    """systemd's own score, in tenths: what an exploited service could do to the host."""
    run("systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={limit}", installed / unit)


def test_group_and_directories_are_ones_that_systemd_can_make(tmp_path):
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "sysusers.d/hostplane.conf")
    assert re.search(r"^hostplane:", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    (entry,) = re.findall(r"^hostplane-responder:.*$", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert entry.split(":")[2:4] != ["0", "0"]
    assert entry.endswith("nologin")
    lines = (SYSTEMD / "tmpfiles.d/hostplane.conf").read_text().splitlines()
    paths = [line.split()[1] for line in lines if line.startswith("d ")]
    assert paths == ["/run/hostplane", "/var/lib/hostplane"]


def test_modules_and_settings_are_installed_where_they_are_read_at_boot(tmp_path):
    run(SYSTEMD / "install", "--bindir", "/usr/bin", "--destdir", tmp_path)
    modules = (tmp_path / "etc/modules-load.d/hostplane.conf").read_text().splitlines()
    assert {"br_netfilter", "nf_conntrack", "ip_set"} <= set(modules)
    assert all(re.fullmatch(r"#.*|[a-z0-9_]+", line) for line in modules)  # modules-load.d(5): a name a line

    settings = [
        line for line in (tmp_path / "etc/sysctl.d/60-hostplane.conf").read_text().splitlines() if line[0] != "#"
    ]
    values = {name: value for name, _, value in (line.partition(" = ") for line in settings)}
    assert {name.removeprefix("-net.bridge.bridge-nf-"): values[name] for name in values if name[0] == "-"} == {
        "call-iptables": "1",
        "call-ip6tables": "1",
        "filter-vlan-tagged": "0",
        "filter-pppoe-tagged": "0",
    }
    for version in ("ipv4", "ipv6"):  # what an instance can have its router ask for in 3 s must not fill the table
        first, second, third = (int(values[f"net.{version}.neigh.default.gc_thresh{number}"]) for number in (1, 2, 3))
        assert first < second < third
        assert third >= 1 << 18


def test_what_filters_need_is_not_refused_by_the_unit():
    unit = service(SYSTEMD / UNITS[0])
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW"} <= set(unit["CapabilityBoundingSet"].split())
    assert {"AF_NETLINK", "AF_INET", "AF_INET6"} <= set(unit["RestrictAddressFamilies"].split())  # raw ones for legacy


# The responder's units


def test_the_agent_starts_neither_store_nor_responder_itself():
    unit = service(SYSTEMD / UNITS[0])
    assert {"--nostart_store", "--nostart_responder"} <= set(unit["ExecStart"].split())
    assert "hostplane-responder.socket" in (SYSTEMD / UNITS[0]).read_text()


def test_the_responder_has_a_user_of_its_own_and_no_right_at_all():
    unit = service(SYSTEMD / UNITS[2])
    assert (unit["User"], unit["CapabilityBoundingSet"], unit["AmbientCapabilities"]) == ("hostplane-responder", "", "")
    assert unit["NoNewPrivileges"] == "yes"
    assert int(unit["MemoryMax"].removesuffix("M")) <= 256
    # What reads packets is handed over: were it taken over, it could not open such a socket in any namespace.
    assert set(unit["RestrictAddressFamilies"].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}
    assert unit["RestrictNamespaces"] == "yes"


def test_the_responder_comes_back_with_its_sockets_whatever_ended_it():
    unit = service(SYSTEMD / UNITS[2])
    assert (unit["Restart"], unit["RestartSec"]) == ("always", "100ms")
    assert int(unit["FileDescriptorStoreMax"]) >= 3 + 1  # while one is replaced there are two of it
    text = (SYSTEMD / UNITS[2]).read_text()
    assert "StartLimitIntervalSec=0" in text


def test_the_responder_is_not_gone_for_long_when_it_is_replaced():
    """Its successor starts when it has ended: until then questions wait in the sockets."""
    unit = service(SYSTEMD / UNITS[2])
    (seconds,) = re.findall(r"--drain-seconds (\d+)", unit["ExecStart"])
    assert int(seconds) < int(unit["TimeoutStopSec"]) <= 5


def test_the_responder_keeps_what_it_knows_where_only_it_may_read():
    unit = service(SYSTEMD / UNITS[2])
    (folder,) = re.findall(r"--state-dir (\S+)", unit["ExecStart"])
    assert folder == f"/run/{unit['RuntimeDirectory']}"
    assert (unit["RuntimeDirectoryMode"], unit["UMask"]) == ("0700", "0077")
    assert unit["RuntimeDirectoryPreserve"] == "restart"


def test_nobody_but_root_may_speak_to_the_responder():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(SYSTEMD / UNITS[3])
    found = parser["Socket"]
    assert found["ListenStream"] == f"/run/hostplane/{SOCKET_NAME}"
    assert (found["SocketUser"], found["SocketMode"], found["Accept"]) == ("root", "0600", "no")


def test_what_the_responder_does_when_it_starts_is_not_refused():
    """Of the calls in ``agent.responder.privileges`` each would end it if systemd answered EPERM."""
    unit = (SYSTEMD / UNITS[2]).read_text()
    *_, allowed = re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)
    assert {"capset", "prlimit64"} <= set(allowed.split())


def test_the_configuration_of_an_operator_survives_an_update(tmp_path):
    file = tmp_path / "etc/hostplane/hostplane.conf"
    file.parent.mkdir(parents=True)
    file.write_text("[DEFAULT]\nhost = mine\n")
    run(SYSTEMD / "install", "--bindir", "/usr/bin", "--destdir", tmp_path)
    assert file.read_text() == "[DEFAULT]\nhost = mine\n"


# The embedded store's unit


def test_a_database_is_made_once(tmp_path):
    ready = (sys.executable, "-m", "agent.store.offline", tmp_path, tmp_path)
    here = {"PYTHONPATH": str(REPOSITORY)}
    run(*ready, env=here)
    generation = run("ovsdb-tool", "query", tmp_path / "store.db", QUERY).stdout
    assert '"uuid"' in generation
    run(*ready, env=here)
    assert run("ovsdb-tool", "query", tmp_path / "store.db", QUERY).stdout == generation


def test_an_older_database_is_converted_and_keeps_its_rows(tmp_path, monkeypatch):
    database = tmp_path / "store.db"
    offline.make_ready(tmp_path, tmp_path, CommandRunner())
    generation = run("ovsdb-tool", "query", database, QUERY).stdout
    older = json.loads(SCHEMA.read_text())
    del older["tables"]["Port_Status"]
    (tmp_path / "older.ovsschema").write_text(json.dumps(older))
    run("ovsdb-tool", "convert", database, tmp_path / "older.ovsschema")
    monkeypatch.setattr(connection_version, "is_older", lambda address, version: True)

    offline.make_ready(tmp_path, tmp_path, CommandRunner())

    ports = QUERY.replace("Global", "Port_Status").replace("generation", "port")
    assert json.loads(run("ovsdb-tool", "query", database, ports).stdout) == [{"rows": []}]
    assert run("ovsdb-tool", "query", database, QUERY).stdout == generation


def test_a_database_that_cannot_be_made_is_one_line(tmp_path):
    missing = tmp_path / "file"
    missing.write_text("")
    done = run(
        sys.executable, "-m", "agent.store.offline", missing, tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hostplane-store: ")
    assert "Traceback" not in done.stderr


QUERY = '["Hostplane", {"op": "select", "table": "Global", "where": [], "columns": ["generation"]}]'


# gateways-down


def test_a_switch_that_starts_tells_that_no_gateway_here_is_to_be_used(vsctl, tmp_path):
    vsctl("add-br", "br-int")
    for name in ("hpb-0011223344", "hpb-5566778899", "tap0"):
        vsctl("add-port", "br-int", name, "--", "set", "Interface", name, "bfd:enable=true")
    env = {"HOSTPLANE_OVSDB": f"unix:{tmp_path}/db.sock"}
    for _ in range(2):
        run(SYSTEMD / "gateways-down", env=env)
        for name in ("hpb-0011223344", "hpb-5566778899"):
            assert vsctl("get", "Interface", name, "bfd") == '{cpath_down="true", enable="true"}'
        assert vsctl("get", "Interface", "tap0", "bfd") == '{enable="true"}'


def test_a_switch_without_gateways_has_nothing_to_tell(vsctl, tmp_path):
    vsctl("add-br", "br-int")
    assert run(SYSTEMD / "gateways-down", env={"HOSTPLANE_OVSDB": f"unix:{tmp_path}/db.sock"}).stderr == ""


# flow-restore-wait


@pytest.fixture
def vsctl(tmp_path):
    """``ovs-vsctl`` for a local switch's database without a switch."""
    database, socket = tmp_path / "conf.db", tmp_path / "db.sock"
    schema = "/usr/share/openvswitch/vswitch.ovsschema"
    run("ovsdb-tool", "create", database, schema)
    argv = ["ovsdb-server", f"--remote=punix:{socket}", f"--unixctl={tmp_path}/ctl", "-vconsole:off", str(database)]
    server = subprocess.Popen(argv)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline
            assert server.poll() is None

        def vsctl(*args):
            return run("ovs-vsctl", "--no-wait", f"--db=unix:{socket}", *args).stdout.strip()

        vsctl("init")
        yield vsctl
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def script(tmp_path, vsctl):
    def script(verb, active="true"):
        env = {"HOSTPLANE_OVSDB": f"unix:{tmp_path}/db.sock", "HOSTPLANE_IS_ACTIVE": active}
        return run(SYSTEMD / "flow-restore-wait", verb, env=env)

    return script


def held(vsctl):
    """Return the setting and our mark."""
    return (
        vsctl("--if-exists", "get", "Open_vSwitch", ".", "other_config:flow-restore-wait"),
        vsctl("--if-exists", "get", "Open_vSwitch", ".", "external_ids:hostplane-flow-restore-wait"),
    )


def test_a_kernel_datapath_is_held_and_released(vsctl, script):
    vsctl("add-br", "br-int")
    script("hold")
    assert held(vsctl) == ('"true"', '"true"')
    assert "did not write its flows in time" in script("release").stderr
    assert held(vsctl) == ("", "")
    assert script("release").stderr == ""


@pytest.mark.parametrize(
    ("bridge", "active"),
    [
        (["add-br", "br-int"], "false"),
        (["add-br", "br-other"], "true"),
        (["add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev"], "true"),
    ],
    ids=["no daemon", "no integration bridge", "userspace datapath"],
)
def test_nothing_is_held_that_nobody_would_release_or_that_needs_no_holding(vsctl, script, bridge, active):
    vsctl(*bridge)
    script("hold", active)
    assert held(vsctl) == ("", "")


def test_what_somebody_else_holds_is_left_alone(vsctl, script):
    vsctl("add-br", "br-int", "--", "set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
    script("hold")
    script("release")
    assert held(vsctl) == ('"true"', "")
