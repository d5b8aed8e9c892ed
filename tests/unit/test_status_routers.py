# SPDX-License-Identifier: Apache-2.0
"""What an operator reads of gateways."""

from __future__ import annotations

from dataclasses import replace

from agent.cli.status_routers import router_lines
from agent.core.model import HostName, RouterId
from agent.core.router_report import RoutersReport, RouterStatus, SessionState, WatchedHost
from agent.status import router_page

HOSTS = (HostName("host1"), HostName("host2"))
EDGE = RouterStatus(
    RouterId("5b8c"), "edge", False, HOSTS, HOSTS[1], active=False, lives_here=True, floating_ips=3,
    port_forwardings=1, since=900.0,
)  # fmt: skip
REPORT = RoutersReport(
    (EDGE,), (WatchedHost(HOSTS[1], SessionState.FORWARDING, 880.0),), "the host is drained", failovers=1, conflicts=0
)


def test_it_says_where_the_gateway_is_and_why_not_here() -> None:
    lines = list(router_lines(router_page.routers(REPORT), 960.0))
    assert lines[0] == "1 routers, 0 with their gateway here"
    row = next(line for line in lines if line.startswith("edge"))
    for word in ("ready", "centralised", "host2", "1 min", "host1,host2", "3", "1"):
        assert word in row
    assert "gateways of this host are NOT TO BE USED: the host is drained" in lines
    assert any(line.split()[:2] == ["host2", "forwarding"] for line in lines)
    assert lines[-2] == "1 times another gateway was chosen; 0 times two were active at once"
    assert lines[-1].startswith("each time connections through SNAT and port forwardings may have ended")


def test_one_router_is_found_by_name_and_by_id() -> None:
    alone = router_page.routers(RoutersReport((EDGE,)))["routers"]
    assert router_page.routers(REPORT, "edge")["routers"] == router_page.routers(REPORT, "5b8c")["routers"] == alone
    assert router_page.routers(REPORT, "other")["routers"] == []


def test_a_router_of_which_something_is_missing_is_named() -> None:
    broken = replace(EDGE, ready=False, reason="netns: it was not made by hostplane")
    lines = list(router_lines(router_page.routers(RoutersReport((broken,))), 960.0))
    assert "router edge is NOT READY: netns: it was not made by hostplane" in lines
    assert not any("NOT READY" in line for line in router_lines(router_page.routers(REPORT), 960.0))
