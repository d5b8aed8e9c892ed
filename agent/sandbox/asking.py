# SPDX-License-Identifier: Apache-2.0
"""What instances are told: each asks its host by DHCP and for its metadata, as a real one would."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.core.errors import ApplyError
from agent.core.service_identity import METADATA4
from agent.sandbox.sandbox import Sandbox
from agent.store.records import PortRecord

METADATA_URL = f"http://{METADATA4}/openstack/latest/meta_data.json"
TIMEOUT = 15.0  # seconds for all that one instance asks

# What udhcpc(8) calls: say what came, and take the route to the metadata service, as any client does.
_ON_LEASE = """[ "$1" = bound ] || exit 0
set -- $staticroutes
while [ $# -ge 2 ]; do
    [ "$1" != METADATA/32 ] || ip -4 route replace "$1" via "$2" dev "$interface" onlink
    shift 2
done
printf '%s\\n' "address=$ip/$mask" "router=$router" "dns=$dns" "mtu=$mtu" "hostname=$hostname" "server=$serverid"
""".replace("METADATA", METADATA4)
# The client takes the name of a program only, so the script has to be a file.
_ASK = f"""set -e
script=$(mktemp)
trap 'rm -f "$script"' EXIT
printf '#!/bin/sh\\n%s' "$1" > "$script"
chmod 700 "$script"
busybox udhcpc -f -n -q -i eth0 -t 5 -T 1 -O staticroutes -O mtu -O hostname -s "$script" 2> /dev/null
printf 'metadata='
curl --silent --max-time 3 {METADATA_URL}
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What an instance was told: ``lease`` by the words of udhcpc(8); either is empty if there was no answer."""

    port: PortRecord
    lease: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether the lease is the port's, and the metadata too if there are any (groups may forbid to ask)."""
        address = self.lease.get("address", "").partition("/")[0]
        own = address in {ip.address for ip in self.port.fixed_ips}
        return own and self.metadata.get("uuid", self.port.id) == self.port.id


def namesakes(ports: Iterable[PortRecord]) -> tuple[PortRecord, ...]:
    """Return the first two of *ports* on one host that have the same IPv4 address, () if there are none."""
    seen: dict[tuple[str, str], PortRecord] = {}
    for port in ports:
        for ip in port.fixed_ips:
            if ":" not in ip.address:
                other = seen.setdefault((port.host, ip.address), port)
                if other is not port:
                    return other, port
    return ()


def ask_all(sandbox: Sandbox, ports: Sequence[PortRecord]) -> list[Told]:
    """Let the instances of *ports* ask, all at the same time; raise ApplyError for one that does not end."""
    programs = [_start(sandbox, port) for port in ports]
    try:
        return [
            _read(port, program.communicate(timeout=TIMEOUT)[0]) for port, program in zip(ports, programs, strict=True)
        ]
    except subprocess.TimeoutExpired:
        raise ApplyError("an instance that asks for its address does not end") from None
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _start(sandbox: Sandbox, port: PortRecord) -> subprocess.Popen[str]:
    argv = sandbox.argv(sandbox.resolve(port.name), ["sh", "-c", _ASK, "sh", _ON_LEASE])
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _read(port: PortRecord, output: str) -> Told:
    found = dict(line.partition("=")[::2] for line in output.splitlines() if "=" in line)
    try:
        metadata = json.loads(found.pop("metadata", ""))
    except ValueError:
        metadata = {}
    return Told(port, found, metadata if isinstance(metadata, dict) else {})
