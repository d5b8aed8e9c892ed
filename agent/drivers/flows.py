# SPDX-License-Identifier: Apache-2.0
"""Driver ``flows``: the OpenFlow tables of ``br-int``.

A flow is ours if the top 16 bits of its cookie say so; the next 16 say whose it is.
One bundle per pass, which the switch takes as a whole or not at all; reading back
is one dump, of everything or of the flows whose cookies look like those asked for.

A thousand new flows and more go in a few bundles at once, all of one object's in the
same, and what changes or goes follows in one more.  ``ovs-vswitchd`` takes 50
messages of a connection in each turn of its main loop, and with 400 ports a turn
takes milliseconds: four connections halve the time until a restarted switch forwards
(6,500 flows, 400 ports: 0.25 instead of 0.55 s).

It speaks over the bridge's management socket and is no controller, so nothing in
the switch's configuration can cut it off.  The tables of ``br-int`` are ours: a
foreign flow with exactly the table, priority and match of one of ours is replaced;
every other foreign flow stays as it is.

If the process dies between any two steps, the bundle is in or it is not; the next
process reads back what there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from agent.command import Runner
from agent.core import naming
from agent.core.errors import ApplyError, CommandError
from agent.core.openflow import OPENFLOW_VERSION
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.flow_text import (
    OWNER_BITS,
    FlowMod,
    common_bits,
    cookie_filter,
    find_refused,
    parse_dump,
    render_mods,
)

PARALLEL_FLOWS = 1000  # new flows from which on they are spread over LANES connections
LANES = 4
SLICE_FLOWS = 400  # flows in a slice: about 5 ms to read
MAX_SLICES = 1 << 16  # the owner's hash has 16 bits
MAX_TRIES = 32  # bundles sent in one pass while flows are being refused
# What reading costs (measured on two cores at 2.6 GHz), to choose between one large and several small dumps.
DUMP_PROCESS_SECONDS = 8e-3
DUMP_FLOW_SECONDS = 10e-6


class FlowsDriver:
    """The flows of one bridge; *target* is its management socket (``unix:<run_dir>/br-int.mgmt``)."""

    name = "flows"

    def __init__(self, run: Runner, target: str) -> None:
        self._run = run
        self._target = target
        self._per_table: Counter[int] = Counter()

    def flow_counts(self) -> Mapping[int, int]:
        """Return how many flows of ours each table holds, as last read and written."""
        return {table: count for table, count in list(self._per_table.items()) if count > 0}

    def observe(self, keys: Mapping[Key, ObjectId] | None = None) -> dict[Key, Value]:
        """Read back all flows of ours, or those of *keys* that carry their owner's mark.

        A key whose owner is not known any more (empty) is found whatever its mark.
        """
        if keys is None:
            flows = self._dump(cookie_filter())
            self._per_table = Counter(map(_table_of, flows))
            return dict(flows)
        found: dict[Key, Value] = {}
        if not keys:
            return found
        for selected in self._filters(set(keys.values())):
            found.update({key: actions for key, actions in self._dump(selected).items() if key in keys})
        return found

    def slices(self) -> int:
        """Return the least power of two that leaves at most ``SLICE_FLOWS`` flows in a slice."""
        count = 1
        while self._total() > count * SLICE_FLOWS and count < MAX_SLICES:
            count *= 2
        return count

    def observe_slice(self, index: int, of: int) -> dict[Key, Value]:
        """Read back the flows whose owner's hash is *index* modulo *of*, a power of two."""
        return dict(self._dump(cookie_filter(index, of - 1)))

    def apply(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta*, as one bundle unless it is large; flows that are refused are left out of the next try.

        Raises CommandError when the switch cannot be reached or gave no answer in time.
        """
        if len(delta.creates) < PARALLEL_FLOWS:
            failed = self._write(delta)
        else:
            with ThreadPoolExecutor(LANES, "flows") as pool:
                failed = {key: error for lane in pool.map(self._write, _lanes(delta)) for key, error in lane.items()}
            failed |= self._write(Delta({}, delta.updates, delta.deletes, delta.owners))
        self._count(delta, failed)
        return failed

    def _write(self, delta: Delta) -> dict[Key, Exception]:
        """Write *delta* as one bundle."""
        mods = render_mods(delta)
        failed: dict[Key, Exception] = {}
        for _ in range(MAX_TRIES):
            refused = self._send(mods)
            if not refused:
                return failed
            failed.update({key: ApplyError(f"flow {key}: {reason}") for key, reason in refused.items()})
            mods = [mod for mod in mods if mod.key not in refused]
        text = f"not sent: {MAX_TRIES} other flows of the same pass were refused"
        failed.update({mod.key: ApplyError(f"flow {mod.key}: {text}") for mod in mods})
        return failed

    def _send(self, mods: list[FlowMod]) -> dict[Key, str]:
        """Send one bundle; return the flows because of which nothing of it was taken."""
        if not mods:
            return {}
        # Without --no-names it would first ask for the names of all ports, on a connection of its own.
        argv = ("ovs-ofctl", "-O", OPENFLOW_VERSION, "--no-names", "--bundle", "add-flows", self._target, "-")
        try:
            self._run(argv, stdin="".join([mod.line for mod in mods]))
        except CommandError as err:
            # Out of time: it may have been taken.  No flow named: the switch is not there.
            refused = {} if err.returncode is None else find_refused(err.stderr, mods)
            if not refused:
                raise
            return refused
        return {}

    def _dump(self, selected: str) -> dict[Key, str]:
        argv = ("ovs-ofctl", "-O", OPENFLOW_VERSION, "--no-stats", "--no-names", "dump-flows", self._target, selected)
        return parse_dump(self._run(argv))

    def _filters(self, owners: set[ObjectId]) -> list[str]:
        """Choose the dumps that find the flows of *owners*: one that finds more, or one for each."""
        if "" in owners:
            return [cookie_filter()]
        hashes = {naming.owner_hash(owner) for owner in owners}
        bits = common_bits(hashes)
        together = DUMP_PROCESS_SECONDS + DUMP_FLOW_SECONDS * self._total() / (1 << bits.bit_count())
        if together <= len(hashes) * DUMP_PROCESS_SECONDS:
            return [cookie_filter(next(iter(hashes)), bits)]
        return [cookie_filter(each, OWNER_BITS) for each in hashes]

    def _total(self) -> int:
        return sum(self._per_table.values())

    def _count(self, delta: Delta, failed: Mapping[Key, Exception]) -> None:
        self._per_table.update(_table_of(key) for key in delta.creates if key not in failed)
        self._per_table.subtract(_table_of(key) for key in delta.deletes if key not in failed)


def _lanes(delta: Delta) -> list[Delta]:
    """Return the new flows of *delta* in parts; what belongs to one object stays together."""
    lanes: list[dict[Key, Value]] = [{} for _ in range(LANES)]
    for key, actions in delta.creates.items():
        lanes[naming.owner_hash(delta.owners[key]) % LANES][key] = actions
    return [Delta(creates=lane, owners=delta.owners) for lane in lanes]


def _table_of(key: Key) -> int:
    """Return the table of a key ``table=N,...``."""
    return int(key[6 : key.index(",")])
