"""The first process inside for NBD tests: device nodes and modules, then pytest, then off. See kernel.py."""

import sys
import traceback
from pathlib import Path

import guest_init


def main() -> None:
    _task, scratch, *files = sys.argv[1:]
    guest_init.environment()
    try:
        guest_init.base_system("nbd", "ext4", "xfs", "btrfs")
        guest_init.sh("ip", "link", "set", "lo", "up")
        Path("/run/tmp").mkdir()
        guest_init.tests(Path(scratch), files)
    except Exception:  # noqa: BLE001 - told, and then there is nothing left to do
        traceback.print_exc()
    finally:
        guest_init.power_off()


if __name__ == "__main__":
    main()
