# SPDX-License-Identifier: Apache-2.0
"""The demo's router: an instance reaches the outside under a floating IP, and goes on when its gateway is lost."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Final

from agent.cli.yaml_file import parse_file
from agent.core.errors import ApplyError
from agent.sandbox.host import SimulatedHost
from agent.sandbox.layout import EXTERNAL
from agent.sandbox.sandbox import Sandbox
from agent.sandbox.tools import wait_until
from agent.status import client
from agent.store.writer import Writer

INSTANCE: Final = "blue2"  # of examples/two-hosts.yaml, on host2
FLOATING_IP: Final = "203.0.113.10"
OUTSIDE: Final = "198.51.100.1"  # behind the router beyond
FIRST, SECOND = "host1", "host2"
DOCUMENT = f"""\
networks:
  public: {{type: flat, physnet: {EXTERNAL}, external: true}}
subnets:
  public4: {{network: public, cidr: 203.0.113.0/24, gateway: 203.0.113.1, dhcp: false}}
routers:
  edge: {{gateway: {{network: public, hosts: [{FIRST}, {SECOND}]}}, interfaces: [blue4]}}
floating_ips:
  {FLOATING_IP}: {{port: {INSTANCE}}}
"""
APPLIED_SECONDS = 30.0
REACHED_SECONDS = 30.0
INTERVAL = 0.01  # seconds between two pings
PINGS = 300
PING_TIMEOUT = 60.0
BEFORE = 0.5  # seconds of pings before the uplink is cut

_RECEIVED = re.compile(r"(\d+) received")


def add_router(sandbox: Sandbox) -> None:
    """Give the blue network a way out; return when it works.  Raises AgentError if it does not."""
    with Writer.connect([sandbox.paths.store_address]) as writer:
        applied = writer.wait_applied(writer.apply(parse_file(DOCUMENT.encode(), "the demo's router")), APPLIED_SECONDS)
        if applied.exit_status:
            raise ApplyError("the hosts have not made the router")
    wait_until(f"{FIRST} has the gateway", lambda: all(map(_uses_first, sandbox.hosts)), REACHED_SECONDS)
    wait_until(f"{INSTANCE} reaches {OUTSIDE}", lambda: _answers(_ping(sandbox, 1)) == 1, REACHED_SECONDS)


def lose_gateway(sandbox: Sandbox) -> float:
    """Cut the uplink of the host whose gateway is used while the instance pings; return the seconds without answers."""
    pinging = _ping(sandbox, PINGS)
    time.sleep(BEFORE)
    sandbox.cut(FIRST, (EXTERNAL,))
    return (PINGS - _answers(pinging)) * INTERVAL


def _uses_first(host: SimulatedHost) -> bool:
    """Tell whether a host has found out that the preferred gateway works, and uses it."""
    answer = client.get(host.paths.agent_socket, "/routers")
    return all(router["gateway_host"] == FIRST for router in answer["routers"]) and all(
        watched["state"] == "forwarding" for watched in answer["gateways"]["watched"]
    )


def _ping(sandbox: Sandbox, number: int) -> subprocess.Popen[str]:
    """Let the instance send *number* pings to the outside."""
    command = ["ping", "-q", "-i", str(INTERVAL), "-W", "1", "-c", str(number), OUTSIDE]
    argv = sandbox.argv(sandbox.resolve(INSTANCE), command)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _answers(pinging: subprocess.Popen[str]) -> int:
    """Return how many answers there were; raise ApplyError if ``ping`` does not end."""
    try:
        output, _ = pinging.communicate(timeout=PING_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ApplyError(f"{INSTANCE} does not stop to ping") from None
    finally:
        pinging.kill()
        pinging.wait()
    found = _RECEIVED.search(output)
    return int(found[1]) if found is not None else 0
