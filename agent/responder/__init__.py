# SPDX-License-Identifier: Apache-2.0
"""The unprivileged process that answers instances: DHCP, router advertisements, metadata.

``protocol`` is what agent and responder say to each other; both sides import it, and it
alone: everything else here belongs to the responder's process.
"""
