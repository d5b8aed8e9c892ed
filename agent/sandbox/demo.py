# SPDX-License-Identifier: Apache-2.0
"""Entry point of ``make demo``; a file to apply may be named, else it is ``examples/two-hosts.yaml``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import agent

EXAMPLE = Path(agent.__file__).parent.parent / "examples" / "two-hosts.yaml"


def main() -> int:
    """Run the demo; exit status 0 when all was as it should be, else 1 (after Ctrl-C too)."""
    # The ovs package uses eventlet where it is installed; nothing here wants it.
    sys.modules["eventlet"] = None  # type: ignore[assignment]
    from agent.sandbox.tour import run

    signal.signal(signal.SIGTERM, _terminated)
    file = sys.argv[1] if len(sys.argv) > 1 else os.path.relpath(EXAMPLE)
    try:
        return run(file)
    except KeyboardInterrupt:
        return 1


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
