# SPDX-License-Identifier: Apache-2.0
"""``python -m bench [NAME ...] [--json] [--quick] [--ports N,N]``."""

import sys

# As in the daemon: the ovs package uses eventlet where it is installed.
sys.modules["eventlet"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    from bench.command import main

    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it; all that was made has been taken down
