"""7-Zip, which is not ours and reads VHD and VHDX, with their chains."""

import shutil
import subprocess
from pathlib import Path

# Debian 12 says 7zz. Where there is only 7z it is the same (Ubuntu 24.04), and no longer the old p7zip.
PROGRAM = "7zz" if shutil.which("7zz") or not shutil.which("7z") else "7z"


def seven_zip(path: Path) -> bytes:
    """Return the content of the disk. Of a VHDX it refuses an odd number of 512-byte sectors."""
    # In its own directory: it looks for parents from where it is started.
    done = subprocess.run([PROGRAM, "e", "-so", path.name], cwd=path.parent, capture_output=True, check=False)
    assert done.returncode == 0, f"7-Zip refuses {path.name}: {done.stderr.decode(errors='replace')[-400:]}"
    return done.stdout
