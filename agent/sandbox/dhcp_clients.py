# SPDX-License-Identifier: Apache-2.0
"""Let instances get their IPv4 addresses by DHCP; runs on a simulated host as a program of its own.

Reads ``{"script": PATH, "instances": [NAME, ...]}`` on standard input, writes the
script of the clients to PATH, starts busybox's ``udhcpc`` in each instance, and prints
``{name: error}`` of those that have no lease.  The clients go on in the background,
renew their leases, and end with the sandbox.

IPv6 needs no program: the kernel of an instance follows router advertisements.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.cli.plug_devices import DEFAULT_DEVICE, NETNS_FOLDER

CLIENT = "busybox"
TRIES = 10  # discovers, one a second
TIMEOUT = 30.0  # seconds for all

# What udhcpc(8) calls with deconfig, bound, renew, leasefail or nak.  Resolver and host
# name are left alone: instances share these with the machine.  Next hops are taken to be on
# the link, because the route to the metadata service is one of the first (RFC 3442).
_SCRIPT = """#!/bin/sh
case $1 in
deconfig)
    ip -4 address flush dev "$interface"
    ;;
bound | renew)
    ip -4 address replace "$ip/$mask" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    [ -n "$staticroutes" ] || staticroutes="${router:+0.0.0.0/0 ${router%% *}}"
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        if [ "$2" = 0.0.0.0 ]; then
            ip -4 route replace "$1" dev "$interface"
        else
            ip -4 route replace "$1" via "$2" dev "$interface" onlink
        fi
        shift 2
    done
    ;;
esac
"""


def main() -> int:
    """Do what standard input asks for."""
    order = json.load(sys.stdin)
    script = Path(order["script"])
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    json.dump(_start(script, order["instances"]), sys.stdout)
    return 0


def _start(script: Path, instances: Sequence[str]) -> dict[str, str]:
    if shutil.which(CLIENT) is None:
        return dict.fromkeys(instances, f"{CLIENT} is missing: install the Debian package {CLIENT}")
    clients = {name: _client(script, name) for name in instances}
    failed = {}
    for name, client in clients.items():
        try:
            said = client.communicate(timeout=TIMEOUT)[0].strip().splitlines()
        except subprocess.TimeoutExpired:
            client.kill()
            said = [f"{CLIENT} does not end"]
        if client.returncode != 0:
            failed[name] = f"no lease by DHCP: {said[-1] if said else 'no answer'}"
    return failed


def _client(script: Path, instance: str) -> subprocess.Popen[str]:
    """Start a client: it fails without a lease, and goes to the background, its output closed, with one."""
    argv = ["nsenter", f"--net={NETNS_FOLDER / instance}", "--", CLIENT, "udhcpc", "-n", "-t", str(TRIES)]
    argv += ["-T", "1", "-i", DEFAULT_DEVICE, "-s", str(script), "-O", "staticroutes", "-O", "mtu"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    sys.exit(main())
