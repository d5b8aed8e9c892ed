# SPDX-License-Identifier: Apache-2.0
"""The unprivileged process that answers instances.  Empty for now: nothing is answered yet."""
