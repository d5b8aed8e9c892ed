# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from agent.core import naming
from agent.core.plan import Delta, ObjectId
from agent.drivers.flow_text import common_bits, cookie_filter, find_refused, parse_dump, render_mods

PORT = ObjectId("port:1")


@pytest.mark.parametrize(
    ("line", "key", "actions"),
    [
        (" cookie=0x1, actions=drop", "table=0,priority=32768", "drop"),
        (" cookie=0x1, ip actions=drop", "table=0,priority=32768,ip", "drop"),
        (" cookie=0x1, priority=0 actions=drop", "table=0,priority=0", "drop"),
        (" cookie=0x1, table=5, actions=drop", "table=5,priority=32768", "drop"),
        (" cookie=0x1, table=5, ct_state=+trk actions=drop", "table=5,priority=32768,ct_state=+trk", "drop"),
        (
            " cookie=0x4850, table=8, priority=6,arp,arp_op=1 actions=set_field:0x1->reg0,resubmit(,2)",
            "table=8,priority=6,arp,arp_op=1",
            "set_field:0x1->reg0,resubmit(,2)",
        ),
        (" cookie=0x1, idle_timeout=60, priority=2,ip actions=drop", "table=0,priority=2,ip", "drop [idle_timeout=60]"),
        (
            " cookie=0x2, table=4, hard_timeout=60, send_flow_rem importance=5, priority=7,ip actions=drop",
            "table=4,priority=7,ip",
            "drop [hard_timeout=60 send_flow_rem importance=5]",
        ),
        (
            " cookie=0x3, table=5, send_flow_rem check_overlap ip actions=drop",
            "table=5,priority=32768,ip",
            "drop [send_flow_rem check_overlap]",
        ),
        (" cookie=0x4, table=5, send_flow_rem priority=3 actions=drop", "table=5,priority=3", "drop [send_flow_rem]"),
    ],
)
def test_every_form_of_a_dumped_flow_is_read(line, key, actions):
    assert parse_dump(f"OFPST_FLOW reply (OF1.4) (xid=0x2):\n{line}\n") == {key: actions}


def test_eight_thousand_flows_are_read_in_sixty_milliseconds():
    line = " cookie=0x4850{n:012x}, table=20, priority=100,ip,metadata=0x{n:x},nw_dst=10.0.0.1 actions=output:{n}\n"
    text = "".join(line.format(n=n) for n in range(8000))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert len(parse_dump(text)) == 8000
        times.append(time.perf_counter() - started)

    assert min(times) < 0.06


def test_a_delta_becomes_one_line_per_flow_with_cookies_that_tell_the_owner():
    delta = Delta(
        creates={"table=0,priority=1": "drop"},
        updates={"table=0,priority=2,ip": ("drop", "output:1")},
        deletes={"table=0,priority=3": "drop"},
        owners={"table=0,priority=1": PORT, "table=0,priority=2,ip": PORT},
    )
    added, updated, deleted = render_mods(delta)

    cookie = naming.flow_cookie(PORT, "table=0,priority=1", "drop")
    assert added.line == f"add cookie={cookie:#018x},table=0,priority=1,actions=drop\n"
    assert updated.line.endswith(",table=0,priority=2,ip,actions=output:1\n")
    assert deleted.line == "delete_strict cookie=0x4850000000000000/0xffff000000000000,table=0,priority=3\n"
    assert [mod.cookie is not None and mod.cookie >> 32 for mod in (added, updated)] == [cookie >> 32] * 2


def test_a_filter_selects_our_flows_by_the_bits_that_their_owners_share():
    assert cookie_filter() == "cookie=0x4850000000000000/0xffff000000000000"
    assert cookie_filter(5, 7) == "cookie=0x4850000500000000/0xffff000700000000"
    assert common_bits({0b1010, 0b1000}) == 0xFFFF ^ 0b0010
    assert common_bits([0x1234]) == 0xFFFF


def test_errors_name_the_lines_that_they_are_about():
    mods = render_mods(
        Delta(
            creates={f"table=0,priority={n}": "drop" for n in range(3)},
            owners={f"table=0,priority={n}": PORT for n in range(3)},
        )
    )
    parsing = '2026-01-01T00:00:00Z|00001|ofp_table|WARN|table 300\novs-ofctl: -:2: unknown table "300"\n'
    refusing = f"Error OFPBRC_EPERM for: OFPT_FLOW_MOD (OF1.4) (xid=0xa): ADD cookie:{mods[2].cookie:#x} actions=drop\n"

    assert find_refused(parsing, mods) == {"table=0,priority=1": 'unknown table "300"'}
    assert find_refused(refusing, mods) == {"table=0,priority=2": "OFPBRC_EPERM"}
    assert find_refused("ovs-ofctl: -:9: odd\novs-ofctl: talking to x (Protocol error)\n", mods) == {}
