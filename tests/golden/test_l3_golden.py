# SPDX-License-Identifier: Apache-2.0
"""All that example hosts hold for a router, for the eye of who changes it: ``--update-golden`` writes it anew."""

from pathlib import Path

import pytest

from tests.golden.router_world import edge_world

FOLDER = Path(__file__).parent / "l3"
PARTS = ("router:", "floating_ip:", "port_forwarding:")


@pytest.mark.parametrize(
    ("name", "distributed", "active"),
    [
        ("centralised-active", False, "here"),
        ("centralised-standby", False, "there"),
        ("distributed-active", True, "here"),
        ("distributed-standby", True, "there"),
    ],
)
def test_what_example_hosts_hold_for_a_router(name, distributed, active, update_golden):
    groups = {
        str(key): group for key, group in edge_world(distributed=distributed, active=active).plan().groups.items()
    }
    lines = []
    for object_id in sorted(key for key in groups if key.startswith(PARTS)):
        lines.append(f"# {object_id}")
        for driver, items in groups[object_id].items.items():
            lines += [f"{driver}: {key} -> {value}".replace("\n", "\n    ") for key, value in items.items()]
    text = "\n".join(lines) + "\n"
    expected = FOLDER / f"{name}.txt"
    if update_golden:
        expected.write_text(text)
    assert text == expected.read_text()
