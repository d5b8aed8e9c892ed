# SPDX-License-Identifier: Apache-2.0
"""What an operator writes into the configuration file, and what comes of it."""

import io
from pathlib import Path

import pytest
from oslo_config import cfg, generator

from agent import config
from agent.core.errors import Actor, ConfigError
from agent.core.model import NetworkType

SAMPLE = Path(__file__).parents[2] / "docs" / "hostplane.conf.sample"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a configuration from text; no file of the machine plays a part."""
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.conf")

    def load_text(text, *argv):
        file = tmp_path / "hostplane.conf"
        file.write_text(text)
        return config.load(["--config-file", str(file), *argv])

    return load_text


def test_nothing_configured_is_a_host_of_its_own_with_the_embedded_store(load, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node-a")

    loaded = load("")

    assert loaded.host == "node-a"
    assert loaded.store.embedded
    assert loaded.store.connection == ("unix:/run/hostplane/store.sock",)
    assert loaded.status.socket == Path("/run/hostplane/agent.sock")
    assert loaded.l2.tunnel_address is None
    assert loaded.l2.encapsulations == {NetworkType.VXLAN, NetworkType.GENEVE}
    assert (loaded.passes.resync_interval, loaded.passes.hold_share, loaded.passes.hold_minimum) == (60.0, 0.5, 10)


def test_all_groups_are_read(load):
    loaded = load(
        """
        [DEFAULT]
        host = host1
        run_dir = /run/hp1
        log_level = debug
        [store]
        connection = tcp:[2001:db8::1]:6640, tcp:store.example.org:6640
        [switch]
        ovsdb = unix:/run/ovs1/db.sock
        run_dir = /run/ovs1
        datapath_type = netdev
        [l2]
        tunnel_address = 2001:DB8:0::17
        encapsulations = geneve
        bridge_mappings = physnet1:br-phy1,external:br-ex
        [pass]
        resync_interval = 5
        [status]
        metrics_address = ::1
        metrics_port = 0
        """.replace("        ", "")
    )

    assert loaded.store.connection == ("tcp:[2001:db8::1]:6640", "tcp:store.example.org:6640")
    assert not loaded.store.embedded
    assert loaded.status.socket == Path("/run/hp1/agent.sock")
    assert loaded.switch == config.SwitchConfig("unix:/run/ovs1/db.sock", Path("/run/ovs1"), "netdev")
    assert loaded.l2.tunnel_address == "2001:db8::17"
    assert loaded.l2.encapsulations == {NetworkType.GENEVE}
    assert dict(loaded.l2.bridge_mappings) == {"physnet1": "br-phy1", "external": "br-ex"}
    assert loaded.passes.resync_interval == 5.0
    assert loaded.status.metrics_port == 0


def test_later_files_win_and_the_command_line_wins_over_all(load, tmp_path):
    second = tmp_path / "second.conf"
    second.write_text("[DEFAULT]\nhost = b\n")

    loaded = load("[DEFAULT]\nhost = a\nstart_store = true\n", "--config-file", str(second), "--nostart_store")

    assert loaded.host == "b"
    assert loaded.start_store is False


def test_the_environment_changes_nothing(load, monkeypatch):
    monkeypatch.setenv("OS_DEFAULT__HOST", "elsewhere")
    assert load("[DEFAULT]\nhost = here\n").host == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[DEFAULT]\nhost = two words\n", "[DEFAULT] host: 'two words' is not a host name"),
        ("[DEFAULT]\nlog_level = loud\n", "[DEFAULT] log_level: Valid values are [debug, info, warning, error]"),
        ("[DEFAULT]\nrun_dir = run\n", "[DEFAULT] run_dir: 'run' is not an absolute path"),
        ("[store]\nconnection = 10.0.0.1\n", "[store] connection: '10.0.0.1' is not ssl:HOST:PORT"),
        ("[store]\nconnection = tcp:[10.0.0]:1\n", "[store] connection: '10.0.0' is not an IP address"),
        ("[store]\nconnection = tcp:a:70000\n", "[store] connection: 'tcp:a:70000' is not"),
        ("[store]\nconnection = tcp:a:1,tcp:a:1\n", "[store] connection: names an address twice"),
        ("[store]\nconnection = ssl:a:6640\n", "[store] private_key: must name a file"),
        ("[store]\nprivate_key = /nowhere/key.pem\n", "[store] private_key: /nowhere/key.pem: No such file"),
        ("[switch]\novsdb = db.sock\n", "[switch] ovsdb: 'db.sock' is not"),
        ("[switch]\ndatapath_type = dpdk\n", "[switch] datapath_type: 'dpdk' is not empty, 'system' or 'netdev'"),
        ("[l2]\ntunnel_address = 10.0.0.\n", "[l2] tunnel_address: '10.0.0.' is not an IP address"),
        ("[l2]\ntunnel_address = fe80::1\n", "[l2] tunnel_address: fe80::1 cannot be a tunnel's end"),
        ("[l2]\nencapsulations = gre\n", "[l2] encapsulations: 'gre' is not one of geneve, vxlan"),
        ("[l2]\nbridge_mappings = physnet1\n", "[l2] bridge_mappings: "),
        ("[l2]\nbridge_mappings = a:br-x,b:br-x\n", "[l2] bridge_mappings: br-x is mapped twice"),
        ("[l2]\nbridge_mappings = a:br-int\n", "[l2] bridge_mappings: a: br-int is the integration bridge"),
        ("[l2]\nbridge_mappings = a:bridge-name-too-long\n", "is not the name of a bridge"),
        ("[pass]\nhold_share = 1.5\n", "[pass] hold_share: Should be less than or equal to 1"),
        ("[pass]\nresync_interval = soon\n", "[pass] resync_interval: could not convert string to float: 'soon'"),
        ("[status]\nmetrics_port = 70000\n", "[status] metrics_port: Should be less than or equal to 65535"),
        ("[status]\nmetrics_address = localhost\n", "[status] metrics_address: 'localhost' is not an IP address"),
        ("[status]\nsocket = /" + 120 * "x" + "\n", "is longer than the 107 bytes"),
        ("[l2]\nbridge_mapping = a:b\n", "[l2] bridge_mapping: no such option (did you mean bridge_mappings?)"),
        ("[L2]\ntunnel_address = 1.2.3.4\n", "[L2]: no such group"),
        ("host = a\n", "Section must be started before assignment"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(load, text, message):
    with pytest.raises(ConfigError) as caught:
        load(text)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.actor is Actor.OPERATOR


def test_a_missing_file_is_an_error_only_if_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "absent.conf")
    assert config.load([]).store.embedded
    with pytest.raises(ConfigError, match=r"absent\.conf"):
        config.load(["--config-file", str(tmp_path / "absent.conf")])


def test_the_default_file_is_read_when_none_is_named(tmp_path, monkeypatch):
    file = tmp_path / "default.conf"
    file.write_text("[DEFAULT]\nhost = from-default\n")
    monkeypatch.setattr(config, "DEFAULT_FILE", file)
    assert config.load([]).host == "from-default"


def test_ssl_needs_its_three_files(load, tmp_path):
    for name in ("key", "cert", "ca"):
        (tmp_path / name).write_text("pem")

    loaded = load(
        f"[store]\nconnection = ssl:10.0.0.1:6640\nprivate_key = {tmp_path}/key\n"
        f"certificate = {tmp_path}/cert\nca_cert = {tmp_path}/ca\n"
    )

    assert loaded.store.private_key == tmp_path / "key"
    assert loaded.store.ca_cert == tmp_path / "ca"


def test_reload_takes_over_what_it_can_and_names_what_needs_a_restart(tmp_path):
    file = tmp_path / "hostplane.conf"
    argv = ["--config-file", str(file)]
    file.write_text("[DEFAULT]\nhost = host1\n")
    old = config.load(argv)

    file.write_text(
        "[DEFAULT]\nhost = host2\nlog_level = debug\n[pass]\nhold_minimum = 3\n[status]\nmetrics_port = 0\n"
    )
    result = config.reload(old, argv)

    assert result.changed == ("[DEFAULT] log_level", "[pass] hold_minimum")
    assert result.needs_restart == ("[DEFAULT] host", "[status] metrics_port")
    assert result.config.log_level == "debug"
    assert result.config.passes.hold_minimum == 3
    assert result.config.host == "host1"  # a half-changed daemon would announce one host and wire another
    assert result.config.status.metrics_port == 9177


def test_a_broken_file_leaves_a_running_daemon_alone(tmp_path):
    file = tmp_path / "hostplane.conf"
    argv = ["--config-file", str(file)]
    file.write_text("")
    old = config.load(argv)
    file.write_text("[pass]\nhold_share = lots\n")
    with pytest.raises(ConfigError, match="hold_share"):
        config.reload(old, argv)
    assert old.passes.hold_share == 0.5


@pytest.mark.parametrize(("text", "status"), [("", 0), ("[store]\nconnection = tcp:a:1\n", 1), ("[stor]\n", 255)])
def test_the_store_unit_asks_whether_it_is_needed(tmp_path, capsys, text, status):
    file = tmp_path / "hostplane.conf"
    file.write_text(text)

    assert config.main(["--config-file", str(file), "--embedded-store"]) == status

    assert capsys.readouterr().out == ""


def test_the_sample_is_what_the_generator_makes_of_the_options(monkeypatch):
    monkeypatch.setattr(generator, "_list_opts", lambda namespaces: [("hostplane", config.list_opts())])
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--namespace", "hostplane"])
    text = io.StringIO()

    generator.generate(conf, text)

    assert SAMPLE.read_text() == text.getvalue(), "make it anew: see docs/configuration.md"


def test_the_sample_configures_nothing(load):
    assert load(SAMPLE.read_text()) == load("")
