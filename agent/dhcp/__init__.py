# SPDX-License-Identifier: Apache-2.0
"""Planner, codecs and answers for DHCP and router advertisements.  Empty for now: not served yet."""
