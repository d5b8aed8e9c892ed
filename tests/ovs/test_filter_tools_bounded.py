# SPDX-License-Identifier: Apache-2.0
"""The packet filter's tools with just the capabilities of the daemon's unit, in a namespace of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.ovs.zone_bridges import namespace

UNIT = Path(__file__).parents[2] / "systemd" / "hostplane-agent.service"
RULE = "-A hp-x -m physdev --physdev-in tap1 -j NFLOG"
SCRIPTS = {
    "ipset": "echo create hp-4-x hash:net family inet | ipset restore -exist; ipset save",
    "nft": "nft add table inet hostplane; nft -j list table inet hostplane; nft delete table inet hostplane",
    **{
        f"{family}-{backend}": f"printf '*filter\\n:hp-x - [0:0]\\n{RULE}\\nCOMMIT\\n'"
        f" | {family}-{backend}-restore --noflush -w 5; {family}-{backend}-save -t filter"
        for family in ("iptables", "ip6tables")
        for backend in ("nft", "legacy")
    },
}


@pytest.mark.parametrize("tool", SCRIPTS)
def test_a_tool_works_with_what_the_unit_leaves_it(tool, tmp_path):
    line = next(line for line in UNIT.read_text().splitlines() if line.startswith("CapabilityBoundingSet="))
    names = [name.removeprefix("CAP_").lower() for name in line.partition("=")[2].split()]
    bounds = ",".join(["-all", *(f"+{name}" for name in names)])
    argv = ("setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs", "sh", "-ec", SCRIPTS[tool])
    with namespace():
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XTABLES_LOCKFILE": str(tmp_path / "lock")}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hp-x" in done.stdout or "hostplane" in done.stdout or "hp-4-x" in done.stdout
