# SPDX-License-Identifier: Apache-2.0
"""The hostplane command, one file a noun.  The daemon never imports it."""
