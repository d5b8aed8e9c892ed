# SPDX-License-Identifier: Apache-2.0
"""The metadata service: what instances are told of themselves, by HTTP on 169.254.169.254 and fe80::a9fe:a9fe.

``data`` is what is known of one port and of Nova.  Everything else here answers
requests, without privileges, in the responder's process.
"""
