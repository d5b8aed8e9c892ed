# SPDX-License-Identifier: Apache-2.0
"""The central store: schema, reader (rows to HostSnapshot), writer (for commands and clouds), embedded server."""
