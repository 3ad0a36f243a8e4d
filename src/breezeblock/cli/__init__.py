"""The command `breezeblock`: runs the service, and asks it for things.

Commands about volumes, snapshots, operations and pools talk HTTP to a running service like any other
client; commands about users, the database, the configuration and the doctor open the catalog directly.
Modules are imported when a command needs them, so that `--help` and a list answer at once.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code (`exits.Exit`); failures are told on stderr."""
    from breezeblock.cli import exits
    from breezeblock.errors import BreezeblockError

    try:
        _command()(arguments, prog_name="breezeblock")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else exits.Exit.FAILED
    except KeyboardInterrupt:
        return exits.Exit.INTERRUPTED
    except BreezeblockError as error:
        print(f"breezeblock: {error.message}", file=sys.stderr)  # noqa: T201
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)  # noqa: T201
        return exits.of(error)
    return exits.Exit.OK


@functools.cache
def _command() -> Callable[..., Any]:
    """Build the tree of commands, once: it takes longer than most of them."""
    import typer.main

    from breezeblock.cli.root import app

    return typer.main.get_command(app)
