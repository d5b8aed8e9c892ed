# SPDX-License-Identifier: Apache-2.0
"""The unprivileged process that answers instances: DHCP, router and neighbor solicitations, metadata.

``protocol`` is what agent and responder say to each other; both sides import it, and it
alone: everything else here belongs to the responder's process.

::

    agent ──control──► service ──► knowledge (data by identity and alias) ──► data_file
                          │                  ▲
                          │   frames_loop ───┤ packet socket: agent.dhcp.port_answers, nothing else of a frame is read
                          │   advertiser ────┤ router advertisements when they are due
                          │   metadata_server, metadata_client ──► agent.metadata.connection ──► nova_client
                          └── fd_store: the sockets outlive the process

Order at the start: everything is imported, the directory of the data file is opened,
``privileges`` are dropped; only then are data, sockets and what tenants send looked at.
All waiting is in ``green``; the parts that do not wait know nothing of it and are tested
without.  A request that meets a bug of ours is lost, with a traceback; a loop that does
ends the process.

Questions for a review: does a frame or request of one port cost another more than its
share of time?  Is an answer's port known from where the question came in alone?  Could
whoever comes after us go on, if we ended here?
"""
