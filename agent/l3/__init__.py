# SPDX-License-Identifier: Apache-2.0
"""Planners of routers, NAT, floating IPs and gateways.  Empty for now: routers are not served yet."""
