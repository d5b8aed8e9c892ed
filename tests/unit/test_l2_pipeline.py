# SPDX-License-Identifier: Apache-2.0
"""The pipeline's data: jumps are checked while flows are rendered."""

import pytest

from agent.l2.pipeline import NEXT, Goto, IllegalJumpError, Resubmit, Table, add


def test_flow_is_rendered_with_its_jump():
    flows: dict[str, str] = {}
    key = add(flows, Table.CLASSIFY, 100, "in_port=1", "set_field:0x5->metadata", Goto(Table.PORT_SECURITY))
    assert key == "table=0,priority=100,in_port=1"
    assert flows == {key: "set_field:0x5->metadata,goto_table:10"}


def test_flow_without_actions_drops():
    flows: dict[str, str] = {}
    add(flows, Table.DELIVER, 1, "ip")
    assert flows == {"table=90,priority=1,ip": "drop"}


@pytest.mark.parametrize(
    ("table", "jump"),
    [
        pytest.param(Table.TUNNEL_IN, Goto(Table.REMOTE), id="from a tunnel to a tunnel"),
        pytest.param(Table.CLASSIFY, Goto(Table.DELIVER), id="past port security"),
        pytest.param(Table.FLOOD_LOCAL, Goto(Table.FLOOD_LOCAL), id="goto its own table"),
        pytest.param(Table.LOCAL, Resubmit(Table.NEIGHBOR), id="back"),
        pytest.param(Table.DELIVER, Resubmit(Table.REMOTE), id="from the end"),
    ],
)
def test_illegal_jump_is_refused(table, jump):
    with pytest.raises(IllegalJumpError, match=table.name.lower()):
        add({}, table, 100, "", jump)


# Where what comes from a local port is judged, and where other devices lead to.
ELSEWHERE = (Table.PORT_SECURITY, Table.TUNNEL_IN, Table.PHYSICAL_IN, Table.FROM_SERVICES, Table.FROM_ROUTER)


def test_no_way_leads_around_port_security():
    """What comes from a local port passes PORT_SECURITY before anything can be delivered."""
    seen, todo = set(), [Table.CLASSIFY]
    while todo:
        table = todo.pop()
        if table in seen:
            continue
        seen.add(table)
        todo += [each for each in NEXT[table] if each not in ELSEWHERE]
    assert seen == {Table.CLASSIFY}


def test_every_table_can_be_reached():
    seen, todo = set(), [Table.CLASSIFY]
    while todo:
        table = todo.pop()
        if table not in seen:
            seen.add(table)
            todo += NEXT[table]
    assert seen == set(Table)
