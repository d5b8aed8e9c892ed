# SPDX-License-Identifier: Apache-2.0
"""Hostplane: one daemon per hypervisor that makes its network dataplane equal to the store.

::

    store rows ──reader──► HostSnapshot(revision, in_sync)    Open vSwitch ──► SwitchView
                                  │                                   │
                                  └────────► build_plan() ◄───────────┘     pure
                                                  │ Plan: object id -> Group of items
                                                  ▼
                             diff by identity of groups ──► one Delta per driver
                                                  ▼
               apply: creates in driver order, deletes backward ──► verify by observing

The pages to read next are the docstrings of ``agent.core.plan`` (the vocabulary)
and ``agent.core.reconciler`` (the pass), and ``docs/design.md``.
"""

__version__ = "0.1.0"
