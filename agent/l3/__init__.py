# SPDX-License-Identifier: Apache-2.0
"""Planners of routers, NAT, floating IPs and gateways.  They stand on layer 2, which knows nothing of them."""
