# SPDX-License-Identifier: Apache-2.0
"""The kernel's sets depend on what is wanted last, whatever was wanted, and whatever somebody did, before."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from agent.core.plan import Delta, Driver
from agent.drivers.ipset import IpsetDriver
from agent.drivers.members import MembersDriver
from tests.fakes.ipset import FakeIpsets, FakeSet

ELEMENTS = {
    "inet": ["10.0.0.1", "10.0.0.0/24", "192.0.2.9", "0.0.0.0/1"],
    "inet6": ["2001:db8::1", "2001:db8::/32", "::ffff:102:304"],
}
SETS = {"hp-4-a": "inet", "hp-4-b": "inet", "hp-6-a": "inet6"}
WANTED = st.fixed_dictionaries(
    {},
    optional={name: st.frozensets(st.sampled_from(ELEMENTS[family])) for name, family in SETS.items()},
)


def meddled_set(family: str) -> st.SearchStrategy[FakeSet]:
    """Return the strategy of what somebody may have left: elements of the set's own family, as a kernel insists."""
    return st.builds(
        FakeSet,
        type=st.sampled_from(["hash:net", "hash:ip"]),
        family=st.just(family),
        maxelem=st.sampled_from([2, 1048576]),
        elements=st.dictionaries(st.sampled_from(ELEMENTS[family]), st.sampled_from(["", "nomatch"]), max_size=2),
    )


MEDDLED = st.dictionaries(
    st.sampled_from([*SETS, "hp-x-left", "hp-junk"]), st.sampled_from(sorted(ELEMENTS)).flatmap(meddled_set)
)
FOREIGN = FakeSet("hash:net", "inet", elements={"10.0.0.1": ""})


def reconcile(kernel: FakeIpsets, wanted: Mapping[str, frozenset[str]]) -> int:
    """Bring *kernel* to *wanted* as a pass does; return how many items were written."""
    sets = {name: f"hash:net family {SETS[name]}" for name in wanted}
    members = {f"{name} {element}": "" for name, elements in wanted.items() for element in elements}
    drivers: list[tuple[Driver, dict[str, str]]] = [
        (IpsetDriver(kernel.run, kernel), sets),
        (MembersDriver(kernel.run, kernel), members),
    ]
    written = 0
    deletes = []
    for driver, desired in drivers:
        actual = driver.observe()
        delta = Delta(
            {key: value for key, value in desired.items() if key not in actual},
            {key: (actual[key], value) for key, value in desired.items() if actual.get(key, value) != value},
        )
        assert driver.apply(delta) == {}
        deletes.append((driver, {key: value for key, value in actual.items() if key not in desired}))
        written += len(delta) + len(deletes[-1][1])
    for driver, gone in reversed(deletes):
        assert driver.apply(Delta(deletes=gone)) == {}
    return written


@given(st.lists(WANTED, min_size=1, max_size=4), MEDDLED)
def test_sets_depend_on_the_last_wish_only(history: list[dict[str, frozenset[str]]], meddled: dict[str, FakeSet]):
    kernel, fresh = FakeIpsets({"foreign": FOREIGN, **meddled}), FakeIpsets({"foreign": FOREIGN})
    for wanted in history:
        reconcile(kernel, wanted)
        reconcile(kernel, wanted)  # elements of a set that was replaced are missed then
    reconcile(fresh, history[-1])

    assert kernel.dump() == fresh.dump()
    assert reconcile(kernel, history[-1]) == 0


@given(st.lists(st.sampled_from([*ELEMENTS["inet"], *ELEMENTS["inet6"]]), max_size=7), st.integers(1, 3))
def test_what_is_refused_is_named_and_the_rest_gets_in(elements: list[str], maxelem: int):
    kernel = FakeIpsets({"hp-4-a": FakeSet(maxelem=maxelem), "hp-6-a": FakeSet(family="inet6")})
    keys = {f"{name} {element}": "" for name in SETS for element in elements}
    driver = MembersDriver(kernel.run, kernel)

    failed = driver.apply(Delta(creates=keys))

    assert {key for key in keys if key not in failed} == set(driver.observe())
    assert all(name in str(failed[key]) for key in failed for name in [key.split()[0]])
    assert all(key in failed for key in keys if key.startswith("hp-4-b"))
    fit = [element for element in set(elements) if ":" not in element]
    assert len(kernel.sets["hp-4-a"].elements) == min(len(fit), maxelem)
    assert set(kernel.sets["hp-6-a"].elements) == {element for element in elements if ":" in element}
