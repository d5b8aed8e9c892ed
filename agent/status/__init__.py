# SPDX-License-Identifier: Apache-2.0
"""What operators and Prometheus see of a running daemon."""
