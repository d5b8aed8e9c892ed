# SPDX-License-Identifier: Apache-2.0
"""What the planners write is letter by letter what Open vSwitch shows afterwards."""

import pytest

from agent.l2.pipeline import Table
from tests.golden.l2_world import example_world
from tests.ovs.pipeline_lab import dump, load, running_switch


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    with running_switch(tmp_path_factory.mktemp("text"), ports=1) as running:
        yield running


def test_planned_text_is_what_the_switch_shows(switch):
    flows = example_world().flows()
    load(switch, flows)
    assert dump(switch) == flows


def test_every_table_drops_what_no_flow_speaks_of(switch):
    load(switch, example_world().flows())
    shown = dump(switch)
    goes_on = {Table.ND_SECURITY, Table.NEIGHBOR, Table.NEIGHBOR_IN, Table.LOCAL}
    for table in Table:
        ends = shown[f"table={table.value},priority=0"]
        assert (ends == "drop") != (table in goes_on), table
