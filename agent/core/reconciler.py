# SPDX-License-Identifier: Apache-2.0
"""One pass: make the dataplane equal to a plan, and know afterwards what is not.

What is there is not kept as a copy of the dataplane.  The reconciler believes that
each item is as it was desired when it was last written, except those in ``_open``:
items that failed, are blocked, or were found to differ when they were read back.
For these it asks the driver what is there before it writes again.  A *resync* asks
for everything; it happens at start, after a driver could not be used, and when the
switch came back.

Order within a pass: creates and updates from the first driver to the last, then
deletes from the last to the first, unless a driver's ``WriteOrder`` says otherwise.
If the process dies between any two steps, the next one starts with a resync and needs
no memory of this one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from agent.core.desired import Desired, Former, Touched
from agent.core.diff import differences, differences_among, make_delta, owners_of
from agent.core.errors import (
    Actor,
    AgentError,
    ApplyError,
    AwayError,
    CommandError,
    Problem,
    StoreError,
    VerifyError,
)
from agent.core.plan import (
    Delta,
    Driver,
    ItemRef,
    Key,
    ObjectId,
    PlacedDriver,
    Plan,
    SlicedDriver,
    Value,
    WriteOrder,
)
from agent.core.report import ItemState, ObjectStatus, Operations, PassReport
from agent.core.retry import Backoff

LOG = logging.getLogger(__name__)

REMARKABLE = 2  # failures in a row to read or write a subsystem: one is normal for a bridge made a moment ago
LONG_AWAY = 6  # the same where a process is being started: about 3 s
PATIENCE = 4  # failures of one item, over about a second, that the last drivers wait for
VERIFIED_AT_ONCE = 100  # items of a driver that reads its places one by one


@dataclass(slots=True)
class _Open:
    """An item that is not known to be as desired."""

    status: ObjectStatus
    due: float  # monotonic seconds; when to try again
    present: bool  # whether something may be there that is not what is desired


@dataclass(slots=True)
class _Work:
    """What one pass has found out and written so far."""

    deltas: dict[str, Delta] = field(default_factory=dict)
    operations: dict[str, Operations] = field(default_factory=dict)

    def delta(self, driver: Driver) -> Delta:
        """Return what *driver* has to write."""
        return self.deltas.get(driver.name, Delta())


class Reconciler:
    """Owns the belief about the dataplane.  Used by one thread only.

    *monotonic* and *now* give seconds (the second as Unix time); *progress* is called
    after each driver step (the watchdog is fed there).  *orders* names the drivers that
    are not written in the ordinary order.
    """

    def __init__(
        self,
        drivers: Sequence[Driver],
        monotonic: Callable[[], float],
        now: Callable[[], float],
        backoff: Backoff,
        progress: Callable[[], None] = lambda: None,
        orders: Mapping[str, WriteOrder] = MappingProxyType({}),
    ) -> None:
        self._drivers = tuple(drivers)
        self._orders = orders
        self._monotonic = monotonic
        self._now = now
        self._backoff = backoff
        self._progress = progress
        self._desired = Desired()
        self._open: dict[ItemRef, _Open] = {}
        self._unread = {driver.name for driver in drivers}  # drivers whose contents we do not know
        self._unread_attempts: dict[str, tuple[int, float]] = {}
        self._unread_errors: dict[str, AgentError] = {}  # of these and of those before
        self._told: set[str] = set()  # those whose failures in a row the log has
        self._written: dict[str, dict[Key, ObjectId]] = {}
        self._read_once: set[str] = set()
        self._sweeps = True  # whether the last pass deleted what nobody wants
        self._misread: dict[ItemRef, int] = {}  # how often in a row an item read back differently

    # What others may ask.

    @property
    def desired(self) -> Desired:
        """The plan of the last pass, by owner."""
        return self._desired

    def unfinished(self) -> dict[ItemRef, ObjectStatus]:
        """Return the items that are not done, and why."""
        return {ref: item.status for ref, item in self._open.items()}

    def unfinished_of(self, object_id: ObjectId) -> list[tuple[ItemRef, ObjectStatus]]:
        """Return the items of *object_id* that are not done."""
        return [(ref, o.status) for ref, o in self._open.items() if self._desired.owner(ref) == object_id]

    def is_clean(self, drivers: Collection[str]) -> bool:
        """Tell whether *drivers* are known to hold nothing but what is desired (some of which may be missing)."""
        if self._unread.intersection(drivers) or self._unread_attempts.keys() & set(drivers):
            return False
        return not any(item.present and ref.driver in drivers for ref, item in self._open.items())

    def clashes(self) -> list[Problem]:
        """Return a problem for each object whose item another object holds."""
        return self._desired.clashes()

    def next_due(self) -> float | None:
        """Return the monotonic time at which something is to be tried again, None if nothing is."""
        times = [due for _, due in self._unread_attempts.values()]  # the items of these come with them
        held = self._held_drivers()
        for ref, item in self._open.items():
            if ref.driver not in self._unread_attempts and not self._is_waiting(ref, item, held):
                times.append(item.due)
        return min(times, default=None)

    def need_resync(self, drivers: Iterable[str] | None = None, *, lost: bool = False) -> None:
        """Forget what is believed of *drivers* (default: all); the next pass reads them back.

        *lost* says that their contents are known to be gone (the switch was restarted),
        so that what is missing does not count as drift.
        """
        for name in drivers if drivers is not None else [d.name for d in self._drivers]:
            self._unread.add(name)
            self._unread_attempts.pop(name, None)
            if lost:
                self._read_once.discard(name)

    # The pass.

    def run(self, plan: Plan, revision: int, reasons: Sequence[str] = (), *, sweep: bool = True) -> PassReport:
        """Make the dataplane equal to *plan*; return what was done and what was not.

        With *sweep* False nothing is deleted (the plan is from disk and may lack
        what the store knows).  Never raises for what a driver reports; failures stand
        in the report and are tried again when ``next_due`` says so.
        """
        started, begun = self._now(), self._monotonic()
        resync = bool(self._unread)
        self._sweeps = sweep
        touched, changed = self._desired.replace(plan.groups)
        work = self._compare(touched, sweep=sweep)
        self._apply(work)
        self._progress()
        report = PassReport(
            revision=revision,
            started_at=started,
            seconds=self._monotonic() - begun,
            reasons=tuple(reasons),
            resync=resync,
            groups=len(plan.groups),
            groups_changed=changed,
            operations=work.operations,
            unfinished=self.unfinished(),
        )
        for name, delta in work.deltas.items():
            if delta:
                self._written.setdefault(name, {}).update(owners_of(delta, touched.get(name, {})))
        return report

    def preview(self, plan: Plan) -> dict[str, Delta]:
        """Return what a pass over *plan* with everything read back first would write.

        Changes nothing.  Raises AgentError when a driver cannot be read.
        """
        wanted = Desired()
        wanted.replace(plan.groups)
        deltas = {}
        for driver in self._drivers:
            actual = driver.observe()
            deltas[driver.name] = make_delta(driver.name, wanted, differences(driver.name, wanted, actual), sweep=True)
            self._progress()
        return {name: delta for name, delta in deltas.items() if delta}

    def written(self, driver: str) -> Collection[Key]:
        """Return the keys of *driver* that were written and not read back since."""
        return self._written.get(driver, {}).keys()

    def objects_written(self, driver: str) -> frozenset[ObjectId]:
        """Return the objects of which anything was written by *driver* and not read back since."""
        return frozenset(self._written.get(driver, {}).values())

    def is_verified(self) -> bool:
        """Tell whether all that was written has been read back."""
        return not self._written

    def verify_written(self) -> int:
        """Read back what passes wrote; return how many items are not as desired.

        Those are errors from then on and are written again when due.
        """
        wrong = 0
        while self._written:
            wrong += self.verify_some()
        return wrong

    def verify_some(self) -> int:
        """Read back a part of what passes wrote, as ``verify_written`` does with all of it."""
        driver = next((driver for driver in self._drivers if driver.name in self._written), None)
        if driver is None:
            return 0
        keys = self._take_written(driver)
        if driver.name in self._unread:
            return 0
        clean = {key: owner for key, owner in keys.items() if ItemRef(driver.name, key) not in self._open}
        try:
            actual = driver.observe(clean) if clean else {}
        except AgentError as err:
            self._lose(driver.name, err)
            return 0
        wrong = 0
        for key in clean:
            ref = ItemRef(driver.name, key)
            if actual.get(key) == self._desired.value(ref):
                self._misread.pop(ref, None)
                continue
            wrong += 1
            self._misread[ref] = self._misread.get(ref, 0) + 1
            error = _verify_error(ref, self._desired.value(ref), actual.get(key))
            self._fail(ref, error, present=key in actual, attempts=self._misread[ref])
        self._progress()
        return wrong

    def _take_written(self, driver: Driver) -> dict[Key, ObjectId]:
        """Return what is to be verified next of *driver*: what is likely to be in few places, or all if it has none."""
        left = self._written.pop(driver.name)
        if len(left) <= VERIFIED_AT_ONCE or not isinstance(driver, PlacedDriver):
            return left
        keys = {key: left.pop(key) for key in sorted(left)[:VERIFIED_AT_ONCE]}
        self._written[driver.name] = left
        return keys

    def read_back(self, driver: Driver, index: int, of: int) -> int:
        """Read back slice *index* of *of* of *driver*; return how many items have drifted.

        Drifted items are open from then on and due at once.  A driver without slices
        is read whole.
        """
        if driver.name in self._unread:
            return 0
        try:
            actual = driver.observe() if of == 1 else _sliced(driver).observe_slice(index, of)
        except AgentError as err:
            self._lose(driver.name, err)
            return 0
        return self._note_drift(driver, differences(driver.name, self._desired, actual, index, of), actual)

    def read_back_place(self, driver: PlacedDriver, place: str, expected: Collection[Key]) -> int:
        """Read back one place of *driver*, where *expected* are desired; otherwise as ``read_back``."""
        if driver.name in self._unread:
            return 0
        try:
            actual = driver.observe_place(place)
        except AgentError as err:
            self._lose(driver.name, err)
            return 0
        return self._note_drift(driver, differences_among(driver.name, self._desired, actual, expected), actual)

    def read_back_items(self, driver: Driver, keys: Iterable[Key]) -> int:
        """Read back those of *keys* that are desired; otherwise as ``read_back``."""
        owners = self._desired.owners(driver.name)
        wanted = {key: owners[key] for key in keys if key in owners}
        if driver.name in self._unread or not wanted:
            return 0
        try:
            actual = driver.observe(wanted)
        except AgentError as err:
            self._lose(driver.name, err)
            return 0
        differing = [key for key in wanted if actual.get(key) != self._desired.value(ItemRef(driver.name, key))]
        return self._note_drift(driver, differing, actual)

    def _note_drift(self, driver: Driver, differing: Iterable[Key], actual: Mapping[Key, Value]) -> int:
        drifted = 0
        for key in differing:
            ref = ItemRef(driver.name, key)
            if ref not in self._open and (self._sweeps or self._desired.owner(ref) is not None):
                self._drift(ref, actual.get(key))
                drifted += 1
        self._progress()
        return drifted

    # How it is done.

    def _compare(self, touched: Touched, *, sweep: bool) -> _Work:
        """Find out what has to be written, by driver."""
        work, held = _Work(), self._held_drivers()
        now = self._monotonic()
        for driver in self._drivers:
            name = driver.name
            if self._unread_attempts.get(name, (0, now))[1] > now:
                continue  # could not be used a moment ago; all of it is compared when it is due
            changed, begun = touched.get(name, {}), self._monotonic()
            try:
                whole = name in self._unread
                differing = self._read_whole(driver) if whole else self._believed(driver, changed, now, held)
            except AgentError as err:
                self._lose(name, err)
                work.operations[name] = Operations(failed=1, failures={"unreadable": 1})
                continue
            drifted = sum(1 for key in differing if key not in changed and self._has_drifted(ItemRef(name, key)))
            work.deltas[name] = make_delta(name, self._desired, differing, sweep=sweep)
            work.operations[name] = Operations(drifted=drifted, read_seconds=self._monotonic() - begun)
            self._read_once.add(name)
            self._progress()
        return work

    def _read_whole(self, driver: Driver) -> dict[Key, Value | None]:
        """Read back everything; return key -> present value of what is not as desired."""
        name = driver.name
        differing = differences(name, self._desired, driver.observe())
        for ref in [ref for ref in self._open if ref.driver == name and ref.key not in differing]:
            self._done(ref)
        self._unread.discard(name)
        if not differing:
            self._unread_attempts.pop(name, None)
        return differing

    def _believed(
        self, driver: Driver, touched: Mapping[Key, Former], now: float, held: frozenset[str]
    ) -> dict[Key, Value | None]:
        """Return key -> present value of what may differ: changed keys as believed, open ones as read."""
        doubtful = {
            ref.key
            for ref, item in self._open.items()
            if ref.driver == driver.name
            and (ref.key in touched or (item.due <= now and not self._is_waiting(ref, item, held)))
        }
        differing = {key: former.value for key, former in touched.items() if key not in doubtful}
        if doubtful:
            owners = self._desired.owners(driver.name)
            actual = driver.observe({key: owners.get(key, ObjectId("")) for key in doubtful})
            for key in doubtful:
                differing[key] = actual.get(key)
                wanted = self._desired.value(ItemRef(driver.name, key))
                if actual.get(key) == wanted or (wanted is None and not self._sweeps):
                    self._done(ItemRef(driver.name, key))  # or nothing that can be done about it now
        return differing

    def _apply(self, work: _Work) -> None:
        """Write all deltas, each driver's parts when its ``WriteOrder`` says."""
        ordinary = [driver for driver in self._drivers if self._order(driver) is not WriteOrder.LAST]
        for driver in ordinary:
            if self._order(driver) is WriteOrder.CLOSING:
                self._write(driver, Delta(deletes=work.delta(driver).deletes), work)
        # One that could not be read counts: what earlier drivers would delete may still be in use there.
        involved = [i for i, d in enumerate(ordinary) if work.delta(d) or d.name in self._unread]
        last = max(involved, default=-1)
        deletes: dict[str, Delta] = {}
        for index, driver in enumerate(ordinary):
            delta, order = self._gate(driver.name, work.delta(driver)), self._order(driver)
            opening = Delta(delta.creates, delta.updates, {}, delta.owners)
            if order is WriteOrder.CLOSING:
                if driver.name not in self._unread:  # else it has just failed, and all of it is compared again
                    self._write(driver, opening, work)
            elif order is WriteOrder.AT_ONCE or index == last:  # of the last, the deletes would come next anyway
                self._write(driver, delta, work)
            else:
                self._write(driver, opening, work)
                deletes[driver.name] = Delta(deletes=delta.deletes)
        for index in range(last - 1, -1, -1):
            driver = ordinary[index]
            unwritten = deletes.get(driver.name, Delta())
            if unwritten and any(later.name in self._unread for later in ordinary[index + 1 :]):
                # What uses these items may still be there: they are compared again once it can be taken away.
                self.need_resync([driver.name], lost=True)
            else:
                self._write(driver, unwritten, work)
        for driver in self._drivers:
            if self._order(driver) is WriteOrder.LAST:
                self._write_last(driver, work)

    def _order(self, driver: Driver) -> WriteOrder:
        return self._orders.get(driver.name, WriteOrder.OPENING)

    def _write_last(self, driver: Driver, work: _Work) -> None:
        """Write what must see everything else done: not while something that is to go may still be there."""
        delta = self._gate(driver.name, work.delta(driver))
        keys = delta.keys()
        left = self._still_to_go()
        if left is None and self._waits_outside(driver.name, keys):
            left = "others that waited are written with it"  # all of them in the next pass, which is due at once
        if left is None:
            self._write(driver, delta, work)
            return
        for key in sorted(keys):
            self._hold(ItemRef(driver.name, key), f"waits until {left}", present=key not in delta.creates)

    def _waits_outside(self, name: str, keys: Collection[Key]) -> bool:
        """Tell whether items of *name* besides *keys* were not written because others came first."""
        return any(
            ref.driver == name
            and ref.key not in keys
            and item.status.state is ItemState.BLOCKED
            and self._missing_requirement(ref) is None
            for ref, item in self._open.items()
        )

    def _still_to_go(self) -> str | None:
        """Say for what the last drivers have to wait, None if for nothing.

        What is there and is to be changed counts as what is to be deleted: it still
        allows what it allowed.  What has failed again and again is not waited for:
        one item that the kernel refuses must not hold everybody's.
        """
        if unread := sorted(self._closing() & self._unread):
            return f"{unread[0]} can be read"
        left = self._lingering() - self.hopeless()
        return f"{min(left).driver} item {min(left).key!r} is as desired or gone" if left else None

    def hopeless(self) -> frozenset[ItemRef]:
        """Return what should be gone or changed and has failed so often that nobody waits for it."""
        return frozenset(ref for ref in self._lingering() if self._open[ref].status.attempts >= PATIENCE)

    def _lingering(self) -> frozenset[ItemRef]:
        """Return what may be there and still allow what is no longer allowed."""
        closing = self._closing()
        return frozenset(ref for ref, item in self._open.items() if ref.driver in closing and item.present)

    def _closing(self) -> set[str]:
        return {name for name, order in self._orders.items() if order in (WriteOrder.AT_ONCE, WriteOrder.CLOSING)}

    def _held_drivers(self) -> frozenset[str]:
        """Return the drivers that are not written now because others come first."""
        last = frozenset(name for name, order in self._orders.items() if order is WriteOrder.LAST)
        return last if last and self._still_to_go() is not None else frozenset()

    def _gate(self, name: str, delta: Delta) -> Delta:
        """Take out of *delta* what must wait for something that has failed.

        What is written in the same batch is no reason to wait, unless it waits itself.
        """
        refs = [ItemRef(name, key) for key in (*delta.creates, *delta.updates)]
        gated = [ref for ref in refs if self._desired.requires(ref)]
        blocked: set[Key] = set()

        def is_written(required: ItemRef) -> bool:
            key = required.key
            return required.driver == name and key not in blocked and (key in delta.creates or key in delta.updates)

        again = True
        while again:  # until nothing more waits for what waits
            again = False
            for ref in gated:
                required = self._missing_requirement(ref, is_written) if ref.key not in blocked else None
                if required is not None:
                    # At once: what in this batch requires it has to find it open.
                    self._block(ref, required, present=ref.key in delta.updates)
                    blocked.add(ref.key)
                    again = True
        if not blocked:
            return delta
        return Delta(
            {k: v for k, v in delta.creates.items() if k not in blocked},
            {k: v for k, v in delta.updates.items() if k not in blocked},
            delta.deletes,
            delta.owners,
        )

    def _missing_requirement(
        self, ref: ItemRef, is_written: Callable[[ItemRef], bool] = lambda _: False
    ) -> ItemRef | None:
        """Return what *ref* has to wait for, None if for nothing; not for what *is_written* together with it."""
        for required in sorted(self._desired.requires(ref)):
            if is_written(required):
                continue
            if required in self._open or self._desired.owner(required) is None or required.driver in self._unread:
                return required
        return None

    def _is_waiting(self, ref: ItemRef, item: _Open, held: frozenset[str]) -> bool:
        """Tell whether *ref* is blocked by something that is still not in place."""
        if item.status.state is not ItemState.BLOCKED:
            return False
        return ref.driver in held or self._missing_requirement(ref) is not None

    def _write(self, driver: Driver, delta: Delta, work: _Work) -> None:
        """Apply one delta and note how each item fared."""
        if not delta:
            return
        begun, keys = self._monotonic(), delta.keys()
        try:
            failed: Mapping[Key, Exception] = driver.apply(delta)
        except AgentError as err:
            # How far it got is unknown: all of it stays open, and the driver is read again before it is used.
            failed = dict.fromkeys(keys, err)
            self._lose(driver.name, err)
        else:
            self._unread_attempts.pop(driver.name, None)
        for key in keys:
            ref = ItemRef(driver.name, key)
            if key in failed:
                self._fail(ref, failed[key], present=key not in delta.creates)
            else:
                self._done(ref)
        before = work.operations.get(driver.name, Operations())
        work.operations[driver.name] = replace(
            before,
            created=before.created + sum(1 for key in delta.creates if key not in failed),
            updated=before.updated + sum(1 for key in delta.updates if key not in failed),
            deleted=before.deleted + sum(1 for key in delta.deletes if key not in failed),
            failed=before.failed + len(failed),
            failures=Counter(before.failures) + Counter(map(_reason, failed.values())),
            seconds=before.seconds + self._monotonic() - begun,
        )
        self._progress()

    # The state of items.

    def _done(self, ref: ItemRef) -> None:
        self._open.pop(ref, None)

    def _fail(self, ref: ItemRef, error: Exception, *, present: bool, attempts: int | None = None) -> None:
        before = self._open.get(ref)
        if attempts is None:
            attempts = before.status.attempts + 1 if before is not None else 1
        same = before is not None and before.status.state is ItemState.ERROR
        since = before.status.since if before is not None and same else self._now()
        delay = self._backoff.delay(attempts)
        actor = error.actor if isinstance(error, AgentError) else Actor.NOBODY
        status = ObjectStatus(ItemState.ERROR, str(error), since, attempts, self._now() + delay, actor=actor)
        self._open[ref] = _Open(status, self._monotonic() + delay, present)

    def _block(self, ref: ItemRef, required: ItemRef, *, present: bool) -> None:
        text = f"waits for {required.driver} item {required.key!r}"
        cause = self._open.get(required)
        if cause is not None and cause.status.state is ItemState.ERROR:
            text += f": {cause.status.message}"
        elif required.driver in self._unread:
            text += f": {required.driver} cannot be read"
        self._hold(ref, text, present=present, required=required)

    def _hold(self, ref: ItemRef, text: str, *, present: bool, required: ItemRef | None = None) -> None:
        """Note that *ref* waits for others, and follows as soon as these are done."""
        before = self._open.get(ref)
        since = before.status.since if before is not None else self._now()
        attempts = before.status.attempts if before is not None else 0
        status = ObjectStatus(ItemState.BLOCKED, text, since, attempts, waits_for=required)
        self._open[ref] = _Open(status, self._monotonic(), present)

    def _drift(self, ref: ItemRef, actual: Value | None) -> None:
        text = f"was changed by somebody else: {_difference_text(self._desired.value(ref), actual)}"
        LOG.warning("%s %s %s", ref.driver, ref.key, text)
        status = ObjectStatus(ItemState.PENDING, text, self._now())
        self._open[ref] = _Open(status, self._monotonic(), present=actual is not None)

    def _has_drifted(self, ref: ItemRef) -> bool:
        """Tell whether *ref*, found to differ, was believed to be as desired before."""
        item = self._open.get(ref)
        if item is None:
            return ref.driver in self._read_once
        return item.status.state is ItemState.PENDING

    def _lose(self, name: str, error: AgentError) -> None:
        """Note that *name* cannot be read or written now."""
        attempts = self._unread_attempts.get(name, (0, 0.0))[0] + 1
        if attempts == 1:
            self._told.discard(name)
        if attempts >= _remarkable(error) and name not in self._told:
            self._told.add(name)
            LOG.error("driver %s cannot be used, retried: %s", name, error)
        self._unread.add(name)
        self._unread_errors[name] = error
        self._unread_attempts[name] = (attempts, self._monotonic() + self._backoff.delay(attempts))

    def unusable(self, attempts: int = 1) -> frozenset[str]:
        """Return the drivers whose subsystem could not be read or written, *attempts* times in a row at least."""
        return frozenset(name for name, (failed, _) in self._unread_attempts.items() if failed >= attempts)

    def troubles(self) -> tuple[Problem, ...]:
        """Return which subsystems cannot be read or written, and why: what no item of theirs can say."""
        found = ((name, self._unread_errors[name]) for name in sorted(self.unusable(REMARKABLE)))
        return tuple(
            Problem("host", name, f"{name} cannot be used, retried: {error}", Actor.OPERATOR)
            for name, error in found
            if self._unread_attempts[name][0] >= _remarkable(error)
        )


def _remarkable(error: AgentError) -> int:
    """Return how many failures like this in a row are news."""
    return LONG_AWAY if isinstance(error, AwayError) else REMARKABLE


def _reason(error: Exception) -> str:
    """Return one word for a metric's label."""
    if isinstance(error, CommandError):
        return "timeout" if error.returncode is None else "command"
    if isinstance(error, StoreError):
        return "database"
    return "refused"


def _sliced(driver: Driver) -> SlicedDriver:
    if not isinstance(driver, SlicedDriver):
        raise ApplyError(f"driver {driver.name} cannot be read in slices")
    return driver


def _verify_error(ref: ItemRef, wanted: Value | None, actual: Value | None) -> VerifyError:
    return VerifyError(f"{ref.driver} item {ref.key!r} reads back differently: {_difference_text(wanted, actual)}")


def _difference_text(wanted: Value | None, actual: Value | None) -> str:
    return f"wanted {wanted!r}, found {actual!r}"
