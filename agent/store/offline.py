# SPDX-License-Identifier: Apache-2.0
"""``python -m agent.store.offline STATE_DIR RUN_DIR``: get the embedded store's database ready to be served.

For the systemd unit, which starts ``ovsdb-server`` itself: makes the database if there
is none and converts it if its schema is older than ours.  Nothing may serve it meanwhile.
Exit status: 0 ready, 1 it could not be made ready, 2 wrong arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from agent.command import CommandRunner, Runner
from agent.core.errors import AgentError, StoreError


def make_ready(state_dir: Path, run_dir: Path, run: Runner) -> None:
    """Make or convert the database in *state_dir*.  Raises AgentError; an old database is then untouched."""
    # Imported only now, after main has locked out eventlet, which the ovs package else brings in.
    from agent.store.connection_version import is_older
    from agent.store.embedded import StorePaths, prepare

    paths = StorePaths(state_dir, run_dir)
    try:
        prepare(paths, run)
    except OSError as err:
        raise StoreError(f"store {paths.address}: {err.filename}: {err.strerror}") from None
    version = run(("ovsdb-tool", "db-version", str(paths.database))).strip()
    if not is_older(paths.address, version):
        return
    with resources.as_file(resources.files("agent.store").joinpath("hostplane.ovsschema")) as schema:
        run(("ovsdb-tool", "convert", str(paths.database), str(schema)))


def main(argv: Sequence[str]) -> int:
    """Make the database of the two directories ready."""
    if len(argv) != 2:
        print("usage: python -m agent.store.offline STATE_DIR RUN_DIR", file=sys.stderr)
        return 2
    sys.modules["eventlet"] = None  # type: ignore[assignment]
    try:
        make_ready(Path(argv[0]), Path(argv[1]), CommandRunner())
    except AgentError as err:
        print(f"hostplane-store: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
