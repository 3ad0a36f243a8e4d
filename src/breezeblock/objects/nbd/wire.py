"""What travels between NBD client and server: numbers, structures and their limits.

Source: the NetworkBlockDevice project's doc/proto.md (fixed newstyle, structured replies). Everything is
in network byte order. The names are the specification's without their `NBD_` prefix.
"""

import struct
from enum import IntEnum, IntFlag

GREETING = struct.Struct(">8s8sH")
"""The server's first words: two magic numbers and `Global` flags."""
GREETING_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION = struct.Struct(">8sII")
"""Magic, `Option`, bytes of data that follow."""
OPTION_REPLY = struct.Struct(">QIiI")
"""Magic, option, `Rep`, bytes of data that follow."""
OPTION_REPLY_MAGIC = 0x0003E889045565A9
EXPORT = struct.Struct(">QH")
"""Answer to EXPORT_NAME and part of INFO_EXPORT: the export's bytes, `Transmission` flags."""
INFO_EXPORT = struct.Struct(">HQH")
INFO_BLOCK_SIZE = struct.Struct(">HIII")
META_CONTEXT = struct.Struct(">I")

REQUEST = struct.Struct(">IHH8sQI")
"""Magic, `Flag`s, `Command`, the client's cookie, offset in bytes, length in bytes."""
REQUEST_MAGIC = 0x25609513
SIMPLE = struct.Struct(">II8s")
"""Magic, error, cookie."""
SIMPLE_MAGIC = 0x67446698
CHUNK = struct.Struct(">IHH8sI")
"""Magic, chunk flags, `Chunk` kind, cookie, bytes of payload that follow."""
CHUNK_MAGIC = 0x668E33EF
CHUNK_DONE = 1
CHUNK_DATA = struct.Struct(">IHH8sIQ")
"""The header of a chunk of data together with the offset that its payload begins with."""
CHUNK_ERROR = struct.Struct(">IH")
"""Payload of an error: the error, bytes of text that follow."""
EXTENT = struct.Struct(">II")
"""One descriptor of a block status: bytes, `State`."""

MAX_PAYLOAD_BYTES = 32 << 20
"""Of one read or write; what clients assume when nobody tells them more."""
MAX_NAME_BYTES = 4096
"""Of an export's name and of any other string."""
ALLOCATION = b"base:allocation"


class Global(IntFlag):
    """Handshake flags; the client's have the same numbers."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client may ask before it begins."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Rep(IntEnum):
    """Kinds of answers to options; those with the highest bit set are errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = -(1 << 31) + 1
    ERR_POLICY = -(1 << 31) + 2
    ERR_INVALID = -(1 << 31) + 3
    ERR_TLS_REQD = -(1 << 31) + 5
    ERR_UNKNOWN = -(1 << 31) + 6
    ERR_BLOCK_SIZE_REQD = -(1 << 31) + 8
    ERR_TOO_BIG = -(1 << 31) + 9


class Info(IntEnum):
    """What can be told about an export."""

    EXPORT = 0
    BLOCK_SIZE = 3


class Transmission(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Command(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class Flag(IntFlag):
    """How it is to be done."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class Chunk(IntEnum):
    """Kinds of chunks in a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1


class State(IntFlag):
    """What `base:allocation` says of an extent."""

    HOLE = 1
    ZERO = 2


class Error(IntEnum):
    """The only errors that a reply may carry; Linux has the same numbers, others may not."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108
