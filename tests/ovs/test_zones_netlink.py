# SPDX-License-Identifier: Apache-2.0
"""Zones of bridges as nf_tables elements, on the real kernel, in a namespace of the test's own.  Needs root."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from agent.core.errors import ApplyError
from agent.drivers.nft_watch import NftWatch, is_own_thread
from agent.drivers.zones_netlink import ElementSocket
from tests.ovs.zone_bridges import namespace, shell

TABLE = """nft -f - <<END
table inet hostplane {
  map zones { typeof iifname : ct zone; }
  set untracked { type ifname; }
}
END"""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with namespace():
        yield


def as_nft_sees_them() -> dict[str, int]:
    listed = json.loads(shell("nft -j list map inet hostplane zones"))["nftables"]
    return dict(next(entry["map"] for entry in listed if "map" in entry).get("elem", []))


def test_thousands_of_zones_are_written_as_nft_reads_them_and_read_back():
    shell(TABLE)
    wanted = {f"qbr{n:08x}-{n % 7:02x}": f"{n}{' notrack' if n % 3 == 0 else ''}" for n in range(1, 3001)}
    elements = ElementSocket()
    elements.write({}, wanted)
    assert as_nft_sees_them() == {name: int(value.split()[0]) for name, value in wanted.items()}
    assert elements.zones() == wanted

    moved = dict.fromkeys(list(wanted)[:2000], "65535")
    gone = dict.fromkeys(list(wanted)[2000:])
    elements.write(wanted, {**moved, **gone})
    assert elements.zones() == moved


def test_what_is_refused_changes_nothing_at_all():
    shell(TABLE)
    elements = ElementSocket()
    elements.write({}, {"qbra": "5"})
    with pytest.raises(ApplyError, match="exists"):
        elements.write({}, {"qbrb": "6", "qbra": "7"})  # has another zone, which nobody told of
    with pytest.raises(ApplyError, match="No such file"):
        elements.write({"qbrc": "8"}, {"qbrb": "6", "qbrc": None})
    assert elements.zones() == {"qbra": "5"}


def test_without_our_table_there_are_no_zones_and_none_can_be_set():
    elements = ElementSocket()
    assert elements.zones() == {}
    with pytest.raises(ApplyError, match="No such file"):
        elements.write({}, {"qbra": "5"})
    elements.write({}, {})


def test_what_others_have_put_there_is_read_as_far_as_it_is_about_devices():
    shell(TABLE)
    shell("""nft 'add element inet hostplane zones { "eth0" timeout 1h : 7 }' || true""")
    shell("""nft 'add element inet hostplane untracked { "eth1" comment "theirs" }'""")
    assert ElementSocket().zones() == {"eth1": "0 notrack"}


def test_our_own_transactions_wake_nobody():
    shell(TABLE)
    told, verdicts = threading.Event(), []

    def is_ours(pid: int, name: str) -> bool:
        del name
        verdicts.append(is_own_thread(pid))
        return verdicts[-1]

    watch = NftWatch(told.set, is_ours)
    watch.start()
    try:
        ElementSocket().write({}, {"qbra": "5"})
        shell("nft add table inet theirs")
        assert told.wait(10)
        assert verdicts == [True, False]
    finally:
        watch.stop()


def test_a_thread_of_ours_is_told_from_another_process():
    assert is_own_thread(threading.get_native_id())
    assert not is_own_thread(1)
