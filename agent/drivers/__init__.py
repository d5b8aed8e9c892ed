# SPDX-License-Identifier: Apache-2.0
"""One file a subsystem of kernel or switch: observe what is ours, apply differences."""
