"""Back ends that kill their process before a line of choice; helper processes import them by name.

The file `$DEADLY` holds a verb and a number N: the next call of that verb removes the file and is killed
before its Nth executed line. It dies once: whoever comes after finds no order. One that ends before, or
whose N is negative, writes the number of its lines to `survived`. With the word `pause` after
the number it is not killed: it makes the file `reached` beside the order and goes on when there is `go`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import breezeblock
from breezeblock.backends.contract import Backend
from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.backends.nfs import NfsConfig, open_nfs
from breezeblock.backends.proxy import Proxy
from breezeblock.backends.smb import SmbConfig, open_smb

T = TypeVar("T")
ROOT = str(Path(breezeblock.__file__).parent)


def around(verb: str, call: Callable[[], T]) -> T:
    order = Path(os.environ["DEADLY"])
    wanted, number, *pauses = order.read_text().split() if order.exists() else ("", "0")
    if wanted != verb:
        return call()
    order.unlink()
    left = int(number)

    def on_line(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "line":
            if left == 0 and pauses:
                order.with_name("reached").touch()
                while not order.with_name("go").exists():
                    time.sleep(0.01)
            elif left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
        return on_line if frame.f_code.co_filename.startswith(ROOT) else None

    sys.settrace(on_call)
    try:
        return call()
    finally:
        sys.settrace(None)
        order.with_name("survived").write_text(str(int(number) - left))


def open_deadly_local(name: str, config: LocalConfig, state_dir: Path) -> Backend:
    return Proxy(open_local(name, config, state_dir), around)


def open_deadly_nfs(name: str, config: NfsConfig, state_dir: Path) -> Backend:
    return Proxy(open_nfs(name, config, state_dir), around)


def open_deadly_smb(name: str, config: SmbConfig, state_dir: Path) -> Backend:
    return Proxy(open_smb(name, config, state_dir), around)
