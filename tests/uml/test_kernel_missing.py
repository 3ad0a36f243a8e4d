from pathlib import Path

import kernel
import pytest


def test_a_machine_without_the_programs_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "SEARCH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kernel.NoKernelError, match=r"apt-get install .*nfs-kernel-server .*user-mode-linux"):
        kernel.run([kernel.GUEST_TESTS / "guest_mounts.py"], tmp_path, print, 10)


def test_a_kernel_without_its_modules_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MODULES", (tmp_path,))
    monkeypatch.setattr(kernel, "_host_can", lambda _kind: False)
    with pytest.raises(kernel.NoKernelError, match=r"apt-get install user-mode-linux$"):
        kernel.run([kernel.GUEST_TESTS / "guest_mounts.py"], tmp_path, print, 10)


def test_a_guest_that_hangs_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped after 1 s"):
        kernel._watch(["sleep", "60"], tmp_path, print, 1.0)
