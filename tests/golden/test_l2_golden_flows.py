# SPDX-License-Identifier: Apache-2.0
"""All flows of example hosts, for the eye of who changes them: ``--update-golden`` writes them anew."""

from pathlib import Path

import pytest

from tests.golden.l2_world import example_world, services_world

FOLDER = Path(__file__).parent / "l2"


@pytest.mark.parametrize(("world", "name"), [(example_world, "flows.txt"), (services_world, "services.txt")])
def test_flows_of_the_example_hosts(world, name, update_golden):
    groups, _ = world().groups()
    lines = []
    for object_id in sorted(groups):
        lines.append(f"# {object_id}")
        lines += [f"{key} actions={actions}" for key, actions in groups[object_id].items.get("flows", {}).items()]
    text = "\n".join(lines) + "\n"
    expected = FOLDER / name
    if update_golden:
        expected.write_text(text)
    assert text == expected.read_text()
