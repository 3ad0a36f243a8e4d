"""Coverage-guided fuzzing: `python fuzz_images.py vhd|vhdx|qcow2 DIRECTORY [libFuzzer's options]`.

An input is a list of changes to a good chain's top, so that the fuzzer spends itself on the tables and not
on the megabytes between them. It goes on until something other than our own errors comes out, or until
`-runs` or `-max_total_time` end it; the input is then in the directory, as `crash-…`.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["breezeblock.images"]):
    import hostile

TABLES = {
    "vhd": [(0, 1536), (4096, 16384)],
    "vhdx": [
        *((64 << 10, 4096), (128 << 10, 4096), (192 << 10, 256), (1 << 20, 8192), (2 << 20, 512)),
        *((2 << 20 | 64 << 10, 512), (3 << 20, 64)),
    ],
    "qcow2": [(0, 256), (2048, 64), (64 << 10, 64), (128 << 10, 64), (192 << 10, 64), (256 << 10, 256)],
}


def main() -> None:
    program, name, where, *options = sys.argv
    original = hostile.samples(Path(where))[name]
    good, path = original.read_bytes(), original.with_name(f"mutant.{name}")

    def one(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        changes: list[tuple[int, int, int]] = []
        while given.remaining_bytes() > 4 and len(changes) < 8:
            at, length = given.PickValueInList(TABLES[name])
            width = given.PickValueInList([1, 2, 4, 8])
            place = at + given.ConsumeIntInRange(0, length - 1)
            changes.append((place, width, given.ConsumeUInt(width)))
        sealed, cut = given.ConsumeIntInRange(0, 7) != 0, given.ConsumeIntInRange(0, 255)
        part = cut / 256 if 0 < cut < 16 else None
        path.write_bytes(hostile.mutant(name, good, changes, part, sealed=sealed))
        hostile.use(path, name)

    own = ["-max_len=64", "-len_control=0", "-timeout=20", f"-artifact_prefix={where}/"]
    atheris.Setup([program, *own, *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
