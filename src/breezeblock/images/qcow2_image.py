"""A qcow2 image as a layer. Headers are `qcow2`'s, cluster tables `clusters`'."""

import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache

from msgspec.structs import replace

from breezeblock.errors import InvalidInputError, UnsupportedError
from breezeblock.images import clusters, qcow2, qcow2_check
from breezeblock.images.file import File
from breezeblock.images.layer import Extent, Kind, Layer, Options, Parent, Problem, corrupt, joined
from breezeblock.images.qcow2_writer import Writer

NAME = "qcow2"
_KINDS = {
    clusters.Kind.DATA: Kind.DATA,
    clusters.Kind.ZERO: Kind.ZERO,
    clusters.Kind.COMPRESSED: Kind.PACKED,
}


class Qcow2(Layer):
    """One open qcow2 image."""

    format = "qcow2"

    def __init__(self, file: File, header: qcow2.Header) -> None:
        super().__init__(file)
        self.header = header

    @property
    def virtual_bytes(self) -> int:
        """How many bytes the disk has."""
        return self.header.virtual_bytes

    @property
    def sector_bytes(self) -> int:
        """A cluster: what it does not hold itself would have to come from the parent."""
        return self.header.cluster_bytes

    @property
    def parent(self) -> Parent | None:
        """The backing file; qcow2 records its name and format, and nothing to know it by."""
        return _parent(self.header.backing, self.header.backing_format)

    @property
    def details(self) -> Mapping[str, object]:
        """What only qcow2 has."""
        return {"version": self.header.version, "block_bytes": self.header.cluster_bytes}

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Divide a range; see `Layer.extents`."""
        return joined(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        missing = Kind.PARENT if self.header.backing is not None else Kind.ZERO
        for run in clusters.runs(self.file.fd, self.header, offset, end):
            one = Extent(run.offset, run.length, _KINDS[run.kind], run.host_offset).clip(offset, end)
            if one.offset > offset:
                yield Extent(offset, one.offset - offset, missing)
            yield one
            offset = one.end
        yield Extent(offset, end - offset, missing)

    def unpack(self, extent: Extent) -> bytes:
        """Return a part of a compressed cluster. zstd needs Python 3.14."""
        size = self.header.cluster_bytes
        width = 62 - (self.header.cluster_bits - 8)
        place = extent.at & ((1 << width) - 1)
        stored = ((extent.at & ((1 << 62) - 1)) >> width) * 512 + 512 - place % 512
        if place >= self.header.file_bytes:
            raise corrupt(self.file, f"a compressed cluster at {place} is behind the end", place)
        packed = self.file.peek(place, min(stored, self.header.file_bytes - place))
        data = _decompress_zstd(packed, size) if self.header.zstd else _inflate(packed, size)
        start = extent.offset % size
        if len(data) < start + extent.length:
            raise corrupt(self.file, "a compressed cluster cannot be unpacked", place)
        return data[start : start + extent.length]

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.file, self.header)

    def place(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield where bytes go; see `Layer.place`."""
        return self._writer.place(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Let a range read as zeros; see `Layer.zero`."""
        self._writer.zero(offset, length)

    def commit(self) -> None:
        """Make durable what was placed; see `Layer.commit`."""
        self._writer.commit()
        self.header = replace(self.header, file_bytes=self.file.size())

    def _reload(self) -> None:
        self.header = qcow2.parse(self.file.fd, name=self.file.name)
        self.__dict__.pop("_writer", None)

    def grow(self, virtual_bytes: int) -> None:
        """Raise the virtual bytes, where the L1 table has room (up to 4 TiB with 64 KiB clusters)."""
        if virtual_bytes < self.virtual_bytes:
            raise InvalidInputError(
                f"{self.file.name} has {self.virtual_bytes} bytes; shrinking it is not possible."
            )
        if not qcow2.grow(self.file.fd, self.header, virtual_bytes):
            raise UnsupportedError(
                f"{self.file.name}: the L1 table has no room for {virtual_bytes} bytes.",
                remedy="Use `qemu-img resize -f qcow2`.",
            )
        self._reload()

    def reparent(self, parent: Layer, name: str) -> None:
        """Record another backing file."""
        if self.header.backing is None:
            raise UnsupportedError(f"{self.file.name} has no backing file to change.")
        _check_parent(parent, name)
        if not qcow2.reparent(self.file.fd, self.header, name, parent.format):
            raise UnsupportedError(
                f"{self.file.name}: its header has no room for another backing file's name.",
                remedy="Use `qemu-img rebase -u -f qcow2 -F FORMAT -b NAME`.",
            )
        self._reload()

    def adopt(self, child: Layer) -> None:
        """Nothing to take: qcow2 knows its parent by name and format only."""
        if child.format != NAME:
            super().adopt(child)

    def check(self) -> Iterator[Problem]:
        """Compare the refcounts with the tables; see `Layer.check`."""
        return qcow2_check.check(self.file, self.header)

    def repair(self) -> list[str]:
        """Free leaked clusters; see `Layer.repair`."""
        return qcow2_check.repair(self.file, self.header)


@lru_cache(1024)
def _parent(backing: str | None, backing_format: str | None) -> Parent | None:
    if backing is None or backing_format is None:
        return None
    return Parent((backing,), "", backing_format)


def _inflate(packed: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj(-12).decompress(packed, limit)
    except zlib.error:
        return b""


def _decompress_zstd(packed: bytes, limit: int) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UnsupportedError(
            "Clusters compressed with zstd need Python 3.14 to be read.",
            remedy="Run `qemu-img convert -f qcow2 -O qcow2` on the image first.",
        ) from None
    try:
        return bytes(zstd.ZstdDecompressor().decompress(packed, limit))
    except zstd.ZstdError:
        return b""


def recognises(head: bytes, _tail: bytes) -> bool:
    """Tell by the magic number."""
    return head[:4] == qcow2.MAGIC


def open_layer(file: File) -> Qcow2:
    """Read the header. Raises CorruptError."""
    return Qcow2(file, qcow2.parse(file.fd, name=file.name))


def create(file: File, virtual_bytes: int, options: Options) -> None:
    """Write an image of zeros; see `layer.Format.create`."""
    _only_clusters(options)
    qcow2.create(file.fd, virtual_bytes)


def create_child(file: File, parent: Layer, name: str, options: Options) -> None:
    """Write an overlay of a raw or qcow2 image; see `layer.Format.create_child`."""
    _only_clusters(options)
    _check_parent(parent, name)
    qcow2.create(file.fd, parent.virtual_bytes, backing=name, backing_format=parent.format)


def _only_clusters(options: Options) -> None:
    if options.fixed or options.block_bytes not in {None, qcow2.CLUSTER_BYTES}:
        raise InvalidInputError(f"A qcow2 is made with clusters of {qcow2.CLUSTER_BYTES} bytes, never fixed.")


def _check_parent(parent: Layer, name: str) -> None:
    if parent.format not in {"raw", "qcow2"}:
        raise InvalidInputError(f"A qcow2's parent must be raw or qcow2, not {parent.format}.")
    if not qcow2.is_recordable(name):
        raise InvalidInputError(
            f"{name[:80]!a} cannot be recorded as a qcow2's parent: "
            "letters, digits, '.', '_' and '-' are possible, the first no '.' or '-'."
        )
