# SPDX-License-Identifier: Apache-2.0
"""DHCPv4, DHCPv6 and router advertisements: what an instance is told about its addresses, as pure functions.

``data`` is what is known of one port.  ``v4_answers`` and ``answers6`` turn a frame that
came in on that port into the frame to send back, or into the reason for silence.  Codecs
(``v4_packet``, ``v6_packet``, ``ra_packet``) and framing (``frames``, ``frames6``) stand
apart.  Nothing here opens a socket, looks at a clock, or knows another port; nobody asks
these functions yet: the process that will, and the planner that fills in ``data``, come next.
"""
