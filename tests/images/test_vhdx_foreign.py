"""Files that other programs wrote: QEMU (also its log after a stop) and FATtools' differencing chains."""

import subprocess
from pathlib import Path

import pytest
import vhdx_judges as judges
from vhdx_judges import MIB, change, make_child, pattern, splice

from breezeblock.images import vhdx
from breezeblock.images.file import opened
from sevenzip import seven_zip


def qemu_create(path: Path, virtual_bytes: int, options: str) -> Path:
    command = ["qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(path), str(virtual_bytes)]
    subprocess.run(command, check=True)
    return path


def qemu_io(path: Path, *commands: str, fail_at: int | None = None) -> None:
    """Let QEMU write; with `fail_at` writing to that byte of the file fails, and then QEMU is killed."""
    arguments = ["qemu-io", "--image-opts"]
    nodes = f"driver=vhdx,file.driver=file,file.filename={path}"
    if fail_at is not None:
        nodes = (
            f"driver=vhdx,file.driver=blkdebug,file.image.driver=file,file.image.filename={path},"
            "file.inject-error.0.event=none,file.inject-error.0.iotype=write,"
            f"file.inject-error.0.sector={fail_at // 512}"
        )
        commands = (*commands, "abort")
    for command in commands:
        arguments += ["-c", command]
    done = subprocess.run([*arguments, nodes], capture_output=True, check=False)
    assert (done.returncode == 0) == (fail_at is None), done


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("more", ["block_size=1M", "block_size=8M,log_size=4M", "block_state_zero=off"])
def test_what_qemu_writes(tmp_path: Path, subformat: str, more: str) -> None:
    path = qemu_create(tmp_path / "q.vhdx", 21 * MIB + 512, f"subformat={subformat},{more}")
    qemu_io(path, "write -P 7 3k 70k", "write -P 9 20M 512", "write -P 3 21M 512", "write -z 8M 1M")
    expected = bytearray(judges.qemu(path))
    assert expected[3 << 10] == 7
    assert judges.ours(path) == bytes(expected)
    changes: list[tuple[int, bytes | int]] = [
        (512, pattern(1, 1024)),
        (12 * MIB - 512, pattern(2, 1024)),
        (21 * MIB, 512),
        (0, 512),
    ]
    for offset, what in changes:
        splice(expected, offset, what)
    change(path, *changes)
    judges.agree(bytes(expected), path, by=("libvhdi",) if "off" in more or subformat == "fixed" else ())


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_growing_what_qemu_made(tmp_path: Path, subformat: str) -> None:
    path = qemu_create(tmp_path / "q.vhdx", 9 * MIB + 512, f"subformat={subformat},block_size=2M")
    qemu_io(path, "write -P 7 9M 512", "write -P 5 1M 2M")
    expected = judges.qemu(path)
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        layer.grow(33 * MIB)
        assert list(layer.check()) == []
    change(path, (32 * MIB, pattern(1, MIB)))
    grown = bytearray(expected.ljust(33 * MIB, b"\0"))
    splice(grown, 32 * MIB, pattern(1, MIB))
    judges.agree(bytes(grown), path, by=("seven_zip",))


def test_a_log_that_qemu_left_behind(tmp_path: Path) -> None:
    path = qemu_create(tmp_path / "q.vhdx", 64 * MIB, "block_size=1M")
    qemu_io(path, "write -P 1 0 64k", "write -P 2 20M 64k")
    with opened(path) as file:
        where = vhdx.open_layer(file).image.regions.bat.offset
    qemu_io(path, "write -P 3 30M 64k", "write -P 4 1M 64k", fail_at=where)
    with opened(path) as file:
        assert vhdx.open_layer(file).details["log_to_replay"] is True
    by_reading = judges.ours(path)
    assert by_reading[30 * MIB] == 3
    copy = tmp_path / "copy.vhdx"
    copy.write_bytes(path.read_bytes())
    subprocess.run(["qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", copy], check=True)
    with opened(path, write=True) as file:
        layer = vhdx.open_layer(file)
        assert "the log was replayed" in layer.repair()
        assert list(layer.check()) == []
    assert judges.qemu(path) == judges.qemu(copy) == judges.ours(path) == seven_zip(path) == by_reading
    qemu_tables, our_tables = copy.read_bytes()[192 << 10 :], path.read_bytes()[192 << 10 :]
    assert qemu_tables[: len(our_tables)] == our_tables


def test_writing_replays_the_log_first(tmp_path: Path) -> None:
    path = qemu_create(tmp_path / "q.vhdx", 64 * MIB, "block_size=1M")
    with opened(path) as file:
        where = vhdx.open_layer(file).image.regions.bat.offset
    qemu_io(path, "write -P 3 30M 64k", fail_at=where)
    expected = bytearray(judges.ours(path))
    assert expected[30 * MIB] == 3
    change(path, (MIB, pattern(1, 512)))
    splice(expected, MIB, pattern(1, 512))
    assert judges.ours(path) == judges.qemu(path) == bytes(expected)


def test_chains_that_fattools_writes(tmp_path: Path) -> None:
    """Sector-granular writes into differencing images by another program."""
    size = 5 * MIB
    judges.fattools_make(
        tmp_path,
        f"""
vhdxutils.mk_fixed('base.vhdx', {size}, block=1<<20)
names = ['base.vhdx', 'one.vhdx', 'two.vhdx']
vhdxutils.mk_diff('one.vhdx', 'base.vhdx', block=1<<20)
def put(name, *changes):
    image = vhdxutils.Image(name, 'r+b')
    for offset, byte, length in changes:
        image.seek(offset)
        image.write(bytes([byte]) * length)
    image.close()
put('one.vhdx', (512, 1, 1536), (1 << 20, 2, 1 << 20), ((3 << 20) - 512, 3, 1024))
vhdxutils.mk_diff('two.vhdx', 'one.vhdx', block=1<<20)
put('two.vhdx', (1024, 4, 512), (5 * (1 << 20) - 1024, 5, 512))
""",
    )
    expected = bytearray(size)
    for offset, byte, length in (
        (512, 1, 1536),
        (MIB, 2, MIB),
        (3 * MIB - 512, 3, 1024),
        (1024, 4, 512),
        (size - 1024, 5, 512),
    ):
        splice(expected, offset, bytes([byte]) * length)
    chain = [tmp_path / f"{name}.vhdx" for name in ("two", "one", "base")]
    judges.agree(bytes(expected), *chain, by=("seven_zip", "libvhdi", "fattools"))
    change(chain[0], (0, pattern(1, 1536)))
    splice(expected, 0, pattern(1, 1536))
    leaf = make_child(tmp_path / "three.vhdx", chain[0])
    change(leaf, (2 * MIB, pattern(2, 512)))
    splice(expected, 2 * MIB, pattern(2, 512))
    judges.agree(bytes(expected), leaf, *chain, by=("seven_zip", "libvhdi", "fattools"))
    with opened(chain[0], write=True) as child, opened(chain[1], write=True) as parent:
        judges.merge(vhdx.open_layer(child), vhdx.open_layer(parent))
        vhdx.open_layer(parent).adopt(vhdx.open_layer(child))
    judges.agree(bytes(expected), leaf, *chain[1:], by=("libvhdi",))
