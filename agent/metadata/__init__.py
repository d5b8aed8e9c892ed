# SPDX-License-Identifier: Apache-2.0
"""Planner and isolated proxy of the metadata service.  Empty for now: not served yet."""
