"""7-Zip, which reads VHD and VHDX: `7zz` in Debian 12, `7z` where the old p7zip has gone (Ubuntu 24.04)."""

import shutil

PROGRAM = "7zz" if shutil.which("7zz") or not shutil.which("7z") else "7z"
