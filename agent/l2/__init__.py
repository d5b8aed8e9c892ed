# SPDX-License-Identifier: Apache-2.0
"""Planners of layer 2: the flow pipeline as data, ports, forwarding, security groups."""
