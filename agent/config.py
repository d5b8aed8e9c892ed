# SPDX-License-Identifier: Apache-2.0
"""Configuration: files and command line in, one frozen ``AgentConfig`` out.

``load`` either returns a configuration in which every value has been checked, or
raises ConfigError that names ``[group] option``.  Nothing else in the daemon sees
oslo.config.  On SIGHUP ``reload`` reads the files again; what cannot change in a
running daemon keeps its old value and is named.

``python -m agent.config`` prints the configuration as the daemon would see it;
with ``--embedded-store`` it prints nothing and tells by its exit status whether
the configuration wants the embedded store (0: yes, 1: no).
"""

from __future__ import annotations

import difflib
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from oslo_config import cfg

from agent import __version__
from agent import config_checks as checks
from agent.config_options import list_opts
from agent.core.errors import ConfigError
from agent.core.model import HostName, NetworkType

__all__ = [
    "AgentConfig",
    "FiltersConfig",
    "L2Config",
    "MetadataConfig",
    "PassConfig",
    "Reload",
    "ResponderConfig",
    "StatusConfig",
    "StoreConfig",
    "SwitchConfig",
    "list_opts",
    "load",
    "reload",
]

_SWITCHES = frozenset(("start_store", "start_responder"))  # also on the command line: what the unit says
DEFAULT_FILE = Path("/etc/hostplane/hostplane.conf")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """``[store]``.  ``connection`` is never empty: the embedded store's address stands in it too.

    The three files are set whenever an address is ``ssl:``; ``timeout`` is in seconds.
    """

    connection: tuple[str, ...]
    embedded: bool
    private_key: Path | None = None
    certificate: Path | None = None
    ca_cert: Path | None = None
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class SwitchConfig:
    """``[switch]``: where the local Open vSwitch is."""

    ovsdb: str = "unix:/run/openvswitch/db.sock"
    run_dir: Path = Path("/run/openvswitch")
    datapath_type: str = ""


@dataclass(frozen=True, slots=True)
class L2Config:
    """``[l2]``: what this host announces in its ``Host`` row."""

    tunnel_address: str | None = None
    encapsulations: frozenset[NetworkType] = frozenset({NetworkType.VXLAN, NetworkType.GENEVE})
    bridge_mappings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class L3Config:
    """``[l3]``; ``hold_down`` in seconds."""

    hold_down: float = 5.0
    preempt: bool = True


@dataclass(frozen=True, slots=True)
class FiltersConfig:
    """``[filters]``; ``backend`` is auto, nft or legacy; ``packet_log`` None means the daemon's own log."""

    enabled: bool = True
    backend: str = "auto"
    packet_log: Path | None = None


@dataclass(frozen=True, slots=True)
class ResponderConfig:
    """``[responder]``; ``user`` is the system user that it runs as."""

    enabled: bool = True
    user: str = "hostplane-responder"


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """``[metadata]``: of one port and family; ``rate`` in requests a second (0: any), the others in numbers."""

    rate: float = 50.0
    burst: int = 200
    connections: int = 64


@dataclass(frozen=True, slots=True)
class PassConfig:
    """``[pass]``: ``resync_interval`` in seconds, ``hold_share`` 0..1, ``hold_minimum`` in ports."""

    resync_interval: float = 60.0
    hold_share: float = 0.5
    hold_minimum: int = 10


@dataclass(frozen=True, slots=True)
class StatusConfig:
    """``[status]``; ``metrics_port`` 0 means that there is no TCP endpoint."""

    socket: Path = Path("/run/hostplane/agent.sock")
    socket_group: str = "hostplane"
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9177


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All settings of the daemon, checked."""

    host: HostName
    store: StoreConfig
    state_dir: Path = Path("/var/lib/hostplane")
    run_dir: Path = Path("/run/hostplane")
    log_level: str = "info"
    start_store: bool = True
    start_responder: bool = True
    switch: SwitchConfig = field(default_factory=SwitchConfig)
    l2: L2Config = field(default_factory=L2Config)
    l3: L3Config = field(default_factory=L3Config)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    responder: ResponderConfig = field(default_factory=ResponderConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    passes: PassConfig = field(default_factory=PassConfig)
    status: StatusConfig = field(default_factory=StatusConfig)


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload brought: ``config`` is the one to use from now on.

    ``changed`` options are in it; ``needs_restart`` ones differ in the files but keep
    their old value.  Both are written ``[group] option``.
    """

    config: AgentConfig
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


def load(argv: Sequence[str]) -> AgentConfig:
    """Return the configuration for the command line *argv* (without the program's name).

    Reads each ``--config-file`` in order, or ``/etc/hostplane/hostplane.conf`` if none
    is named and it is there.  Raises ConfigError; a wrong command line and ``--help``
    end the process as argparse does.
    """
    conf = _parse(argv)
    _refuse_unknown(conf)
    run_dir = _path(conf, "DEFAULT", "run_dir")
    return AgentConfig(
        host=HostName(_checked(conf, "DEFAULT", "host", checks.host_name, default=socket.gethostname())),
        state_dir=_path(conf, "DEFAULT", "state_dir"),
        run_dir=run_dir,
        log_level=_raw(conf, "DEFAULT", "log_level"),
        start_store=_raw(conf, "DEFAULT", "start_store"),
        start_responder=_raw(conf, "DEFAULT", "start_responder"),
        store=_load_store(conf, run_dir),
        switch=SwitchConfig(
            ovsdb=_checked(conf, "switch", "ovsdb", checks.remote),
            run_dir=_path(conf, "switch", "run_dir"),
            datapath_type=_checked(conf, "switch", "datapath_type", checks.datapath_type),
        ),
        l2=L2Config(
            tunnel_address=_checked(conf, "l2", "tunnel_address", checks.tunnel_address),
            encapsulations=_checked(conf, "l2", "encapsulations", checks.encapsulations),
            bridge_mappings=_checked(conf, "l2", "bridge_mappings", checks.bridge_mappings),
        ),
        l3=L3Config(
            hold_down=_raw(conf, "l3", "hold_down"),
            preempt=_raw(conf, "l3", "preempt"),
        ),
        filters=FiltersConfig(
            enabled=_raw(conf, "filters", "enabled"),
            backend=_raw(conf, "filters", "backend"),
            packet_log=_checked(conf, "filters", "packet_log", checks.optional_path),
        ),
        responder=ResponderConfig(
            enabled=_raw(conf, "responder", "enabled"),
            user=_checked(conf, "responder", "user", checks.user_name),
        ),
        metadata=MetadataConfig(
            rate=_raw(conf, "metadata", "rate"),
            burst=_raw(conf, "metadata", "burst"),
            connections=_raw(conf, "metadata", "connections"),
        ),
        passes=PassConfig(
            resync_interval=_raw(conf, "pass", "resync_interval"),
            hold_share=_raw(conf, "pass", "hold_share"),
            hold_minimum=_raw(conf, "pass", "hold_minimum"),
        ),
        status=StatusConfig(
            socket=_path(conf, "status", "socket", checks.socket_path),
            socket_group=_raw(conf, "status", "socket_group"),
            metrics_address=_checked(conf, "status", "metrics_address", checks.listen_address),
            metrics_port=_raw(conf, "status", "metrics_port"),
        ),
    )


def reload(old: AgentConfig, argv: Sequence[str]) -> Reload:
    """Read the files again.  Raises ConfigError, and then *old* stays in force.

    Taken over are ``log_level`` and ``[pass]``.  All else would need sockets, threads
    and announcements made anew, which is what a restart does without losing a packet.
    """
    new = load(argv)
    effective = replace(old, log_level=new.log_level, passes=new.passes)
    return Reload(effective, changed=_differences(old, effective), needs_restart=_differences(effective, new))


def as_dict(config: AgentConfig) -> dict[str, object]:
    """Return *config* as the options would be written, for JSON: ``{"[group] option": value}``."""
    return {name: _plain(value) for name, value in _flatten(config).items()}


def main(argv: Sequence[str]) -> int:
    """Print the configuration, or answer ``--embedded-store``; 2 if it is wrong."""
    asked = "--embedded-store" in argv
    try:
        config = load([arg for arg in argv if arg != "--embedded-store"])
    except ConfigError as err:
        print(f"hostplane-agent: {err}", file=sys.stderr)
        # An ExecCondition that exits with 1..254 skips the unit quietly; a wrong file must be seen.
        return 255 if asked else 2
    if asked:
        return 0 if config.store.embedded else 1
    print(json.dumps(as_dict(config), indent=2))
    return 0


def _parse(argv: Sequence[str]) -> Any:
    conf = cfg.ConfigOpts()
    for group, options in list_opts():
        for option in options:
            if option.name in _SWITCHES:
                conf.register_cli_opt(option)
            else:
                conf.register_opt(option, group=None if group == "DEFAULT" else group)
    default = [str(DEFAULT_FILE)] if DEFAULT_FILE.exists() else []
    try:
        # Neither environment variables nor directories of snippets unless named: one look at
        # the command line shows where every setting comes from.
        conf(
            args=list(argv),
            prog="hostplane-agent",
            version=__version__,
            default_config_files=default,
            default_config_dirs=[],
            use_env=False,
        )
    except (cfg.Error, OSError, UnicodeDecodeError) as err:
        raise ConfigError(_one_line(err)) from None
    return conf


def _refuse_unknown(conf: Any) -> None:
    """Raise ConfigError for a group or option that does not exist: a typing error must not pass as a default."""
    known = {group: {option.name for option in options} for group, options in list_opts()}
    for file in _files(conf):
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(file), sections).parse()
        for group, options in sections.items():
            if group not in known:
                raise ConfigError(f"{file}: [{group}]: no such group{_suggest(group, known)}")
            for name in options:
                if name not in known[group]:
                    raise ConfigError(f"{file}: [{group}] {name}: no such option{_suggest(name, known[group])}")


def _files(conf: Any) -> list[Path]:
    files = [Path(name) for name in conf.config_file]
    for directory in conf.config_dir or []:
        files += sorted(Path(directory).glob("*.conf"))
    return files


def _suggest(word: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _raw(conf: Any, group: str, name: str) -> Any:
    try:
        return conf[name] if group == "DEFAULT" else conf[group][name]
    except ValueError as err:  # oslo.config wraps the type's own words in a long preamble
        raise _error(group, name, err.__context__ or err) from None
    except cfg.Error as err:
        raise _error(group, name, err) from None


def _checked(conf: Any, group: str, name: str, check: Any, default: str = "") -> Any:
    value = _raw(conf, group, name)
    try:
        return check(default if value in (None, "") else value)
    except ValueError as err:
        raise _error(group, name, err) from None


def _path(conf: Any, group: str, name: str, check: Any = checks.absolute_path) -> Path:
    path: Path = _checked(conf, group, name, check)
    return path


def _load_store(conf: Any, run_dir: Path) -> StoreConfig:
    connection = _checked(conf, "store", "connection", checks.remotes) or ()
    files: dict[str, Path | None] = {}
    wanted = any(address.startswith("ssl:") for address in connection)
    for name in ("private_key", "certificate", "ca_cert"):
        files[name] = _checked(conf, "store", name, checks.readable_file)
        if wanted and files[name] is None:
            raise _error("store", name, ValueError("must name a file, because [store] connection has an ssl: address"))
    return StoreConfig(
        connection=connection or (f"unix:{run_dir}/store.sock",),
        embedded=not connection,
        timeout=_raw(conf, "store", "timeout"),
        private_key=files["private_key"],
        certificate=files["certificate"],
        ca_cert=files["ca_cert"],
    )


def _error(group: str, name: str, err: BaseException) -> ConfigError:
    return ConfigError(f"[{group}] {name}: {_one_line(err)}")


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split())


def _flatten(config: AgentConfig) -> dict[str, object]:
    groups = {"passes": "pass"}
    flat: dict[str, object] = {}
    for top in fields(config):
        value = getattr(config, top.name)
        if not is_dataclass(value):
            flat[f"[DEFAULT] {top.name}"] = value
            continue
        for inner in fields(value):
            flat[f"[{groups.get(top.name, top.name)}] {inner.name}"] = getattr(value, inner.name)
    del flat["[store] embedded"]  # no option: it follows from connection
    return flat


def _differences(old: AgentConfig, new: AgentConfig) -> tuple[str, ...]:
    before, after = _flatten(old), _flatten(new)
    return tuple(name for name, value in after.items() if before[name] != value)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | tuple):
        return sorted(str(item) for item in value) if isinstance(value, frozenset) else list(value)
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
