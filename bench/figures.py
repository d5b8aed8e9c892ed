# SPDX-License-Identifier: Apache-2.0
"""Figures: what a benchmark measured, beside the floor of the same run, as JSON and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import agent
from agent.sandbox.tools import run

Json: TypeAlias = dict[str, object]
Params: TypeAlias = Mapping[str, int | str]

SECONDS, BYTES, NUMBER, RATE = "s", "B", "1", "1/s"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity.

    ``unit`` is one of s, B, 1, 1/s.  ``floor`` are the samples of the same work done
    without us; where none makes sense it is empty, and floor and ratio are null.
    """

    name: str
    unit: str
    samples: Sequence[float]
    params: Params = field(default_factory=dict)
    floor: Sequence[float] = ()

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def floor_median(self) -> float | None:
        """The median of the floor, None without one."""
        return statistics.median(self.floor) if self.floor else None

    @property
    def ratio(self) -> float | None:
        """How many times the floor it is, None without a floor."""
        floor = self.floor_median
        return self.median / floor if floor else None

    def as_json(self) -> Json:
        """Return the figure as it is published; ``samples`` is their number."""
        return {
            "name": self.name,
            "params": dict(self.params),
            "unit": self.unit,
            "median": _rounded(self.median),
            "min": _rounded(min(self.samples)),
            "max": _rounded(max(self.samples)),
            "samples": len(self.samples),
            "floor_median": _rounded(self.floor_median),
            "ratio": _rounded(self.ratio),
        }


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one benchmark."""

    bench: str
    figures: Sequence[Figure]

    def as_json(self) -> Json:
        """Return the result as it is published."""
        return {
            "bench": self.bench,
            "version": agent.__version__,
            "machine": machine(),
            "figures": [figure.as_json() for figure in self.figures],
        }


def machine() -> Json:
    """Say what the figures were measured on; ``cpus`` are those that this process may use."""
    words = run(["ovs-vswitchd", "--version"]).splitlines()[0].split()
    return {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(), "ovs": words[-1]}


def table(result: Result) -> str:
    """Return the figures for people: a line each, floors and ratios beside them."""
    head = (result.bench, "", "median", "min", "max", "n", "floor", "ratio")
    rows = [head, *(_row(figure) for figure in result.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def readable(value: float, unit: str) -> str:
    """Return *value* as people read it: ms below a second, us below 0.1 ms, kB and MB for bytes."""
    if unit == SECONDS:
        if value < 0.0001:
            return f"{value * 1e6:.2f} us"
        return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
    if unit == BYTES:
        return f"{value / 1e6:.1f} MB" if abs(value) >= 1e6 else f"{value / 1e3:.1f} kB"
    text = f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.2f}"
    return text if unit == NUMBER else f"{text}/s"


def _row(figure: Figure) -> tuple[str, ...]:
    params = " ".join(f"{name}={value}" for name, value in figure.params.items())
    values = (figure.median, min(figure.samples), max(figure.samples))
    floor = "" if figure.floor_median is None else readable(figure.floor_median, figure.unit)
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    return (
        figure.name,
        params,
        *(readable(value, figure.unit) for value in values),
        str(len(figure.samples)),
        floor,
        ratio,
    )


def _rounded(value: float | None) -> float | None:
    """Keep six significant digits: more would be noise."""
    return None if value is None else float(f"{value:.6g}")
