# SPDX-License-Identifier: Apache-2.0
"""Simulated hosts on one machine, for trying, tests and benchmarks."""
