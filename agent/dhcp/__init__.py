# SPDX-License-Identifier: Apache-2.0
"""DHCPv4, DHCPv6 and router advertisements: what an instance is told about its addresses, as pure functions.

``data`` is what is known of one port.  ``port_answers`` turns a frame that came in on that
port into the frame to send back, or into the reason for silence: by ``v4_answers``, by
``v6_answers``, ``ra_answers`` and ``neighbor_answers``.  Codecs (``v4_packet``, ``v6_packet``,
``ra_packet``) and framing (``frames``, ``frames6``) stand apart.  Nothing of this opens a
socket, looks at a clock, or knows another port: that is ``agent.responder``'s, which asks.
``planner`` fills in ``data``.
"""
