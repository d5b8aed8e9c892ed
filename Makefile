# SPDX-License-Identifier: Apache-2.0
# For a Debian 12 machine.  "make install" is the first step of everything; when
# nothing has changed it does nothing.  Root is needed for what installs Debian
# packages or makes network namespaces: install (if a package is missing), demo,
# test, bench.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt
BUILD_INPUTS := pyproject.toml constraints.txt packages.txt .ci/packages agent/_fastpath/build_backend.py \
	$(wildcard agent/_fastpath/fp_*)

.PHONY: help install demo test check bench soak lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## install Debian packages and a virtual environment; afterwards .venv/bin/hostplane works

# The build tools are put into the environment first, so that what is built from
# source (our extension, too) is built with pinned tools.
$(STAMP): $(BUILD_INPUTS)
	.ci/packages packages.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip setuptools wheel cffi
	$(PIP) --no-build-isolation --editable '.[test]'
	touch $@

demo: install ## two simulated hosts, instances on them, and who reaches whom
	$(BIN)/python -m agent.sandbox.demo

test: install ## everything: check, then real Open vSwitch, then whole hosts in namespaces
	.ci/layers check ovs functional

check: install ## format, lint, types, import contracts, tests that need no root
	.ci/layers check

bench: install ## measure, with floors beside each figure
	$(BIN)/python -m bench

soak: install ## the same tests with many more examples, topologies, kills and hostile packets; hours
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest tests/property
	HOSTPLANE_TEST_TOPOLOGIES=5000 $(BIN)/python -m pytest tests/functional/test_filter_matrix.py
	HOSTPLANE_TEST_FAILOVERS=50 $(BIN)/python -m pytest tests/functional/test_router_failover.py tests/functional/test_router_reach.py
	HOSTPLANE_TEST_KILLS=200 $(BIN)/python -m pytest tests/functional/test_filter_changes.py
	$(BIN)/python -m tests.fuzz.dhcp_v4 --seconds 600
	$(BIN)/python -m tests.fuzz.metadata_http --seconds 600
	$(BIN)/python -m tests.property.dhcp6_mutations 600
	$(BIN)/python -m tests.fuzz.metadata_http --seconds 600
	$(BIN)/python -m tests.fuzz.responder --seconds 600

lock: install ## write constraints.txt anew: the newest versions that fit
	.ci/lock > constraints.new
	mv constraints.new constraints.txt

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f agent/_fastpath/_fp.c agent/_fastpath/*.so constraints.new
	find agent tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
