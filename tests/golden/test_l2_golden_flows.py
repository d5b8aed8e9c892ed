# SPDX-License-Identifier: Apache-2.0
"""All flows of the example host, for the eye of who changes them: ``--update-golden`` writes them anew."""

from pathlib import Path

from tests.golden.l2_world import example_world

EXPECTED = Path(__file__).parent / "l2" / "flows.txt"


def test_flows_of_the_example_host(update_golden):
    groups, _ = example_world().groups()
    lines = []
    for object_id in sorted(groups):
        lines.append(f"# {object_id}")
        lines += [f"{key} actions={actions}" for key, actions in groups[object_id].items.get("flows", {}).items()]
    text = "\n".join(lines) + "\n"
    if update_golden:
        EXPECTED.write_text(text)
    assert text == EXPECTED.read_text()
