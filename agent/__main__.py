# SPDX-License-Identifier: Apache-2.0
"""``hostplane-agent``: reads the configuration, puts the parts together, runs the loop.

The main thread takes signals and supervises; the reconcile thread does the work.
Exit status: 0 after SIGTERM or SIGINT (the dataplane stays as it is), 2 for a wrong
configuration (nothing was touched), 1 for a bug, after which systemd starts us again.
"""

from __future__ import annotations

import sys

# The ovs package uses eventlet where it is installed; in this process it must not.
sys.modules["eventlet"] = None  # type: ignore[assignment]

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Final

from agent import config as configuration
from agent import logs
from agent.command import CommandRunner
from agent.core.errors import AgentError, ConfigError
from agent.core.inputs import HoldLimits, SnapshotChooser
from agent.core.model import Host
from agent.core.naming import INTEGRATION_BRIDGE
from agent.core.plan import Driver, WriteOrder
from agent.core.reconciler import Reconciler
from agent.core.retry import Backoff
from agent.core.service_identity import NAMESPACE
from agent.core.snapshot_file import SnapshotFile
from agent.daemon import Daemon
from agent.drivers.announcer import Announcer
from agent.drivers.connects import ConnectsDriver
from agent.drivers.fallback import FallbackDriver
from agent.drivers.flows import FlowsDriver
from agent.drivers.links import LinksDriver
from agent.drivers.nat import NatDriver
from agent.drivers.netns import NetnsDriver
from agent.drivers.ovs import OvsDriver
from agent.drivers.router_look import RouterLook
from agent.drivers.routes import RoutesDriver
from agent.drivers.switch import LocalSwitch
from agent.drivers.switch_watch import SwitchWatch
from agent.drivers.translations import TranslationsDriver
from agent.filtering import ORDERS, Filtering
from agent.gateways import Gateways
from agent.l2.settings import LocalSettings, MetadataLimits
from agent.parts import Parts
from agent.responding import Responding, dismiss
from agent.router_repair import RouterRepair
from agent.status.metrics import AgentMetrics
from agent.status.sdnotify import Heartbeat, Notifier
from agent.status.server import StatusServer
from agent.store import embedded, remotes
from agent.store.reader import SnapshotReader
from agent.store.status_writer import StatusWriter
from agent.wake import Wake

LOG = logging.getLogger("agent")

READY_AFTER = 15.0  # seconds after which we say that we are ready, whatever is missing (it is named)
SUPERVISE = 2.0  # seconds between two looks at the embedded store
SNAPSHOT_FILE = "snapshot"
# One script takes a router's old and new rules; connections end when the rules that they began by are gone.
# What is translated without a connection may come late, and nothing waits for it.
ROUTER_ORDERS: Final[Mapping[str, WriteOrder]] = {
    "nat": WriteOrder.AT_ONCE,
    "fallback": WriteOrder.LAST,
    "translations": WriteOrder.LAST,
}


class Agent:
    """All parts of one daemon, from start to stop."""

    def __init__(self, config: configuration.AgentConfig, argv: Sequence[str]) -> None:
        self._config = config
        self._argv = argv
        self._notifier = Notifier.from_environment()
        self._ready = False
        self._announcing: Future[None] | None = None
        self._signal_read, self._signal_write = os.pipe()
        os.set_blocking(self._signal_read, False)
        os.set_blocking(self._signal_write, False)
        heartbeat, wake = Heartbeat(self._notifier), Wake()
        run = CommandRunner(lambda *timed: self._metrics.observe_command(*timed))
        management = config.switch.run_dir / f"{INTEGRATION_BRIDGE}.mgmt"
        self._local = LocalSettings(
            config.l2.tunnel_address,
            config.l2.encapsulations,
            config.l2.bridge_mappings,
            config.switch.datapath_type,
            config.filters.enabled,
            config.responder.enabled,
            MetadataLimits(config.metadata.rate, config.metadata.burst, config.metadata.connections),
        )
        remotes.use_tls(config.store.connection, _tls(config))
        self._reader = SnapshotReader(
            ",".join(config.store.connection), remotes.schema_text(), config.host, lambda: wake.set("store")
        )
        self._switch = LocalSwitch(config.switch.ovsdb, lambda: wake.set("switch"))
        self._writer = StatusWriter(self._reader, config.host)
        flows = FlowsDriver(run, f"unix:{management}")
        self._filtering = _filtering(config, run, wake)
        self._responding = _responding(config, wake)
        drivers: tuple[Driver, ...] = (
            NetnsDriver(),
            LinksDriver(),
            NatDriver(run, _backend(config)),  # first: a namespace answers for an address that it does not translate
            RoutesDriver(),
            OvsDriver(self._switch, config.switch.datapath_type),
            *(self._filtering.before_flows if self._filtering is not None else ()),
            *((ConnectsDriver(run, (NAMESPACE,)), self._responding.driver) if self._responding is not None else ()),
            flows,
            *(self._filtering.after_flows if self._filtering is not None else ()),
            FallbackDriver(run),
            TranslationsDriver(),
        )
        self._repair = RouterRepair(drivers, run.started, wake.set)
        limits = HoldLimits(config.passes.hold_share, config.passes.hold_minimum)
        saved = SnapshotFile(config.state_dir / SNAPSHOT_FILE, config.host)
        parts = Parts(
            reader=self._reader,
            status_writer=self._writer,
            switch=self._switch,
            drivers=drivers,
            flows=flows,
            announcer=Announcer(run, f"unix:{management}"),
            chooser=SnapshotChooser(saved, limits, time.monotonic()),
            heartbeat=heartbeat,
            reconciler=Reconciler(
                drivers,
                time.monotonic,
                time.time,
                Backoff(),
                heartbeat.advanced,
                # Filters that go are the last to go: what opens the ports behind them goes before.
                {**(ORDERS if config.filters.enabled else {}), **ROUTER_ORDERS},
            ),
            wake=wake,
            filtering=self._filtering,
            responding=self._responding,
            gateways=Gateways(config.host, self._local, config.l3.hold_down, preempt=config.l3.preempt),
            look=RouterLook(run, _backend(config)),
            repair=self._repair,
        )
        self._daemon = Daemon(config, self._local, parts)
        self._metrics = AgentMetrics(self._daemon, heartbeat, time.time)
        self._daemon.observe_with(self._metrics)
        self._daemon.converge_with(self._say_ready)
        self._watch = SwitchWatch(management, self._daemon.switch_back, self._daemon.switch_lost)
        self._status = StatusServer(config.status, self._daemon, self._metrics.scrape)
        self._loop = threading.Thread(target=self._daemon.run, name="reconcile")

    def run(self) -> None:
        """Start everything, wait for signals, stop everything.  Raises ConfigError before anything is touched."""
        self._daemon.add_problems(self._status.start())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(self._signal_write)
        threading.excepthook = _die
        self._supervise_store()
        self._reader.thread.start()
        self._switch.start()
        self._watch.start()
        if self._filtering is not None:
            self._filtering.start()
        if self._responding is not None:
            self._responding.start()
        self._repair.start()
        self._loop.start()
        try:
            self._wait_for_signals()
        except Exception as err:  # as for any other thread: a daemon that takes no signals must not live on
            _die(threading.ExceptHookArgs((type(err), err, err.__traceback__, threading.current_thread())))
        self._notifier.stopping("stopping; the dataplane stays as it is")
        self._daemon.stop()
        self._loop.join(self._config.store.timeout)
        self._status.stop()
        self._watch.stop()
        if self._filtering is not None:
            self._filtering.stop()
        if self._responding is not None:
            self._responding.stop()
        self._repair.stop()
        self._switch.stop()
        self._reader.thread.stop()

    def _wait_for_signals(self) -> None:
        started = time.monotonic()
        while True:
            readable, _, _ = select.select([self._signal_read], [], [], SUPERVISE)
            numbers = set(os.read(self._signal_read, 64)) if readable else set()
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                return
            if signal.SIGHUP in numbers:
                self._reload()
            self._supervise_store()
            self._announce()
            if not self._ready and time.monotonic() - started > READY_AFTER:
                self._say_ready()

    def _say_ready(self) -> None:
        """Tell the service manager that we are up; called once, from whichever thread sees it first."""
        if not self._ready:
            self._ready = True
            self._notifier.ready(self._daemon.ready()[1])
            self._announce()

    def _supervise_store(self) -> None:
        """Start the embedded store, or start it again after it has died."""
        if not (self._config.store.embedded and self._config.start_store) or self._reader.connected():
            return
        try:
            embedded.ensure_running(embedded.StorePaths(self._config.state_dir, self._config.run_dir))
        except AgentError as err:
            LOG.error("%s", err)

    def _announce(self) -> None:
        """Keep this host's row in the store as it is configured."""
        if not self._reader.snapshot().in_sync or not self._reader.connected():
            return
        if self._announcing is not None and not self._announcing.done():
            return  # a store that hangs gets one announcement, not one every two seconds
        local = self._local
        host = Host(self._config.host, local.tunnel_address, local.encapsulations, local.bridge_mappings)
        self._announcing = self._writer.announce(host)
        self._announcing.add_done_callback(_log_failure)

    def _reload(self) -> None:
        self._notifier.reloading()
        try:
            result = configuration.reload(self._config, self._argv)
        except ConfigError as err:
            LOG.error("configuration not reloaded: %s", err)
        else:
            self._config = result.config
            logs.set_level(result.config.log_level)
            self._daemon.reconfigure(result.config)
            LOG.info("configuration reloaded; changed: %s", ", ".join(result.changed) or "nothing")
            if result.needs_restart:
                LOG.warning("takes effect after a restart only: %s", ", ".join(result.needs_restart))
        self._notifier.ready(self._daemon.ready()[1])


def _backend(config: configuration.AgentConfig) -> str:
    """Return which iptables is used, "" for whatever the program of that name is."""
    return "" if config.filters.backend == "auto" else config.filters.backend


def _filtering(config: configuration.AgentConfig, run: CommandRunner, wake: Wake) -> Filtering | None:
    """Return the filters' part; where they are switched off None, unless what they have left must go first."""
    backend = _backend(config)

    def make(runner: CommandRunner) -> Filtering:
        return Filtering(config.host, runner, backend, config.filters.packet_log, wake.set)

    if config.filters.enabled or make(CommandRunner()).has_left_something():
        return make(run)
    return None


def _responding(config: configuration.AgentConfig, wake: Wake) -> Responding | None:
    """Return the responder's part; where it is switched off None, after one that is still there was told to end."""
    if not config.responder.enabled:
        dismiss(config.run_dir)
        return None
    return Responding(config.run_dir, config.state_dir, config.responder.user, config.start_responder, wake.set)


def _tls(config: configuration.AgentConfig) -> remotes.TlsFiles | None:
    store = config.store
    if store.private_key is None or store.certificate is None or store.ca_cert is None:
        return None
    return remotes.TlsFiles(str(store.private_key), str(store.certificate), str(store.ca_cert))


def _log_failure(future: Future[None]) -> None:
    error = future.exception()
    if error is not None:
        LOG.warning("this host could not announce itself in the store, retried: %s", error)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has the signal's number, the main thread reads it there."""
    del number, frame


def _die(args: threading.ExceptHookArgs) -> None:
    """A thread has met a bug of ours: end, so that the service manager starts us afresh."""
    LOG.critical(
        "thread %s died of a bug, ending",
        args.thread.name if args.thread is not None else "?",
        exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback),
    )
    logging.shutdown()
    os._exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; *argv* without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        config = configuration.load(arguments)
        logs.setup(config.log_level)
        for folder in (config.state_dir, config.run_dir):
            _make_folder(folder)
        Agent(config, arguments).run()
    except ConfigError as err:
        print(f"hostplane-agent: {err}", file=sys.stderr)
        return 2
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f"{folder}: cannot be made: {err.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
