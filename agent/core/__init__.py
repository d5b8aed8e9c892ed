# SPDX-License-Identifier: Apache-2.0
"""The reconcile core: what is wanted, what is there, and the pass that makes them equal.

Nothing here knows a store, a command line or a status page; planners and
drivers meet in the types of this package.
"""
