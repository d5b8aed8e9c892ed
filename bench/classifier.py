# SPDX-License-Identifier: Apache-2.0
"""Lookups, compilation, memory and changes of the classifier, beside DPDK's ``rte_acl``.

The floor is ``dpdk-test-acl`` (Debian's package dpdk-dev) with the fastest of its
methods that the processor has, on the same rules and headers, by turns; without it
there are no floors.  Sets are drawn (``bench.rule_sets``), or ClassBench's own
if the environment variable HOSTPLANE_CLASSBENCH names a folder with them.  Before
anything is timed, some answers are compared with those of a linear search.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent._fastpath.classifier import NONE, Change, Classifier, Verb
from agent._fastpath.rules import Rule
from bench import rule_sets
from bench.figures import BYTES, NUMBER, RATE, SECONDS, Figure, Params, Result
from bench.options import Options
from bench.rule_sets import RuleSet

NAME = "classifier"
SIZES: Mapping[str, int] = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
ORDERS = ("shuffled", "zipf")
SAMPLES = 5
BATCH = 4096
SAMPLE_SECONDS = 0.3
CHECKED = 4_000_000  # comparisons of a header and a rule
CHANGES = 512  # in one call
RTE_SECONDS = 120
RTE_METHODS = ("avx512x16", "avx2", "sse", "neon", "scalar")

_RATE = re.compile(r"([\d.]+) pkt/sec")


def run(options: Options) -> Result:
    """Measure; the numbers of ports in *options* have no meaning here."""
    if not _has_rte():
        print("dpdk-test-acl is not installed (apt-get install dpdk-dev): no floors", file=sys.stderr)
    sizes = list(SIZES)[:1] if options.quick else list(SIZES)
    figures = [
        figure
        for size, name in itertools.product(sizes, rule_sets.NAMES)
        for figure in _figures(name, size, 2 if options.quick else SAMPLES)
    ]
    return Result(NAME, figures)


def _figures(name: str, size: str, samples: int) -> Iterator[Figure]:
    rule_set = _set(name, size)
    rules = list(rule_set.rules())
    params: dict[str, int | str] = {"set": name, "rules": len(rules)}
    classifier, times = _compile(rules, samples)
    _check(classifier, rule_set)
    for order in ORDERS:
        headers = list(rule_set.headers)
        if order == "zipf":
            headers = rule_sets.zipf(headers)
        yield _lookups(classifier, RuleSet(rule_set.boxes, headers), {**params, "order": order}, samples)
    statistics = classifier.statistics
    yield Figure("compile", SECONDS, times, params)
    yield Figure("memory", BYTES, [statistics.memory], params, [32 * len(rules) + (1 << 20)])
    yield Figure("trees", NUMBER, [statistics.trees], params)
    yield Figure("changes", RATE, list(_changes(classifier, rule_set, rules, samples)), params)


def _set(name: str, size: str) -> RuleSet:
    """Return ClassBench's own set if there is one, else a drawn one."""
    folder = os.environ.get("HOSTPLANE_CLASSBENCH")
    rules = Path(folder or "/nonexistent") / f"{name}_{size}.rules.gz"
    if rules.exists():
        return rule_sets.load(rules, rules.with_name(f"{name}_{size}.trace.gz"))
    return rule_sets.draw(name, SIZES[size])


def _compile(rules: Sequence[Rule], samples: int) -> tuple[Classifier, list[float]]:
    packed = b"".join(rule.pack() for rule in rules)
    times = []
    for _ in range(samples):
        classifier = Classifier()
        start = time.perf_counter()
        problem = classifier.compile_packed(packed)
        times.append(time.perf_counter() - start)
        if problem:
            raise ValueError(str(problem))
    return classifier, times


def _check(classifier: Classifier, rule_set: RuleSet) -> None:
    """Raise AssertionError if a linear search through the rules answers otherwise."""
    number = min(len(rule_set.headers), max(20, CHECKED // len(rule_set.boxes)))
    headers = random.Random(number).sample(rule_set.headers, number)
    with classifier.reader(number) as reader:
        for header, found in zip(headers, reader.classify_keys(rule_sets.keys(headers)), strict=True):
            right = rule_set.first_match(header)
            if found != (NONE if right is None else right):
                raise AssertionError(f"{header} matches rule {right}, not {found}")


@dataclass(frozen=True, slots=True)
class _Files:
    """What dpdk-test-acl reads."""

    rules: Path
    trace: Path


def _lookups(classifier: Classifier, rule_set: RuleSet, params: Params, samples: int) -> Figure:
    keys = memoryview(rule_sets.keys(rule_set.headers)).cast("B")
    batches = [keys[start : start + 64 * BATCH] for start in range(0, len(keys), 64 * BATCH)]
    rates, floors = [], []
    with ExitStack() as stack:
        reader = stack.enter_context(classifier.reader(BATCH))
        files = _write(Path(stack.enter_context(tempfile.TemporaryDirectory())), rule_set) if _has_rte() else None
        method = _best_method(files) if files else None
        for _ in range(samples):
            rates.append(_rate(reader.classify_keys, batches, len(rule_set.headers)))
            if files and method:
                floors.append(_rte(files, method, len(rule_set.headers)))
    return Figure("lookups", RATE, rates, params, floors)


def _rate(work: Callable[[memoryview], object], batches: Sequence[memoryview], count: int) -> float:
    for batch in batches:
        work(batch)
    rounds, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SAMPLE_SECONDS:
        for batch in batches:
            work(batch)
        rounds += 1
    return rounds * count / elapsed


def _changes(classifier: Classifier, rule_set: RuleSet, rules: Sequence[Rule], samples: int) -> Iterator[float]:
    """Take rules away and put them back, one by one, while another thread looks up."""
    dice = random.Random(len(rules))
    packed = []
    for _ in range(16):
        chosen = dice.choices(rules, k=CHANGES // 2)
        pairs = [Change(verb, rule) for rule in chosen for verb in (Verb.DELETE, Verb.INSERT)]
        packed.append(_pack(pairs))
    keys = rule_sets.keys(rule_set.headers[:256])
    ended = threading.Event()
    thread = threading.Thread(target=_look_up, args=(classifier, keys, ended))
    thread.start()
    try:
        for _ in range(samples):
            rounds, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SAMPLE_SECONDS:
                if classifier.apply_packed(packed[rounds % len(packed)]):
                    raise AssertionError("a change was refused")
                rounds += 1
            yield rounds * CHANGES / elapsed
    finally:
        ended.set()
        thread.join()


def _pack(changes: Sequence[Change]) -> bytearray:
    return bytearray().join(
        change.rule.pack() + change.verb.to_bytes(4, sys.byteorder) + bytes(4) for change in changes
    )


def _look_up(classifier: Classifier, keys: array[int], ended: threading.Event) -> None:
    with classifier.reader() as reader:
        while not ended.is_set():
            for _ in range(100):
                reader.classify_keys(keys)


def _has_rte() -> bool:
    return shutil.which("dpdk-test-acl") is not None


def _write(folder: Path, rule_set: RuleSet) -> _Files:
    files = _Files(folder / "rules", folder / "trace")
    files.rules.write_text("".join(rule_sets.rule_lines(rule_set.boxes)))
    files.trace.write_text("".join(rule_sets.header_lines(rule_set.headers)))
    return files


def _best_method(files: _Files) -> str | None:
    """Return the fastest method; those that the processor does not have fail.  None if the rules take it too long."""
    rates: dict[str, float] = {}
    for method in RTE_METHODS:
        try:
            rates[method] = _rte(files, method, 1_000_000)
        except (subprocess.CalledProcessError, ValueError):
            continue
        except subprocess.TimeoutExpired:
            print(f"dpdk-test-acl does not build these rules in {RTE_SECONDS} s: no floor", file=sys.stderr)
            return None
    return max(rates, key=lambda method: rates[method], default=None)


def _rte(files: _Files, method: str, headers: int) -> float:
    rounds = max(2, 2_000_000 // headers)
    command = [
        *("dpdk-test-acl", "-l", "0", "--force-max-simd-bitwidth=512", "--no-huge", "--no-pci", "--no-shconf"),
        *("-m", "2048", "--", f"--rulesf={files.rules}", f"--tracef={files.trace}", f"--iter={rounds}"),
        *("--rulenum=131072", "--tracenum=131072", "--bldcat=1", "--tracestep=256", f"--alg={method}", "--verbose=0"),
    ]
    found = _RATE.search(_output(command))
    if not found:
        raise ValueError("dpdk-test-acl says no rate")
    return float(found[1])


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=RTE_SECONDS).stdout
