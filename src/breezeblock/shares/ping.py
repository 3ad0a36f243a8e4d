"""Asking a file server whether it is there, without any mount: only sockets, which always time out."""

import os
import socket
import struct

from breezeblock.errors import UnavailableError
from breezeblock.shares.sharelist import Share

NFS_PORT = 2049
SMB_PORT = 445
TIMEOUT_S = 2.0
_NFS_PROGRAM = 100003


def nfs(share: Share, options: str = "", timeout_s: float = TIMEOUT_S) -> None:
    """Make one call of NFS's procedure NULL over TCP (RFC 5531, 1813, 8881: it does nothing and answers).

    Raises UnavailableError saying what came instead of an answer. Any answer will do, even that the
    version is wrong: somebody is there.
    """
    host, port, version = share.address.partition(":/")[0].strip("[]"), NFS_PORT, 4
    if share.address.startswith("["):
        host = share.address[1:].partition("]")[0]
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "port" and value.isdigit() and int(value):
            port = int(value)
        elif (name in {"vers", "nfsvers"} and value[:1] in {"2", "3"}) or name in {"v2", "v3"}:
            version = 3
    xid = int.from_bytes(os.urandom(4), "big")
    # xid, CALL, RPC version 2, program, version, procedure NULL, no credential, no verifier
    call = struct.pack(">10I", xid, 0, 2, _NFS_PROGRAM, version, 0, 0, 0, 0, 0)
    try:
        with socket.create_connection((host, port), timeout_s) as server:
            server.sendall(struct.pack(">I", 1 << 31 | len(call)) + call)
            answer = server.makefile("rb").read(12)
    except TimeoutError as error:
        raise _away(host, port, f"nothing was heard within {timeout_s:g} s") from error
    except OSError as error:
        raise _away(host, port, (error.strerror or str(error)).lower()) from error
    if answer[4:] != struct.pack(">2I", xid, 1):  # after the record mark: our call's number, REPLY
        raise _away(host, port, "what answers there is no NFS server")


def smb(share: Share, options: str = "", timeout_s: float = TIMEOUT_S) -> None:
    """Open an SMB connection and agree on a version (MS-SMB2 2.2.3: NEGOTIATE), nothing more.

    Raises UnavailableError saying what came instead of an answer. Any SMB 2 or 3 answer will do.
    """
    host, port = share.address[2:].partition("/")[0], SMB_PORT
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "port" and value.isdigit() and int(value):
            port = int(value)
        elif name == "ip" and value:
            host = value
    # Header: command 0, one credit. Body: length 36, 2 dialects, signing, no capabilities, client id.
    header = struct.pack("<4sHHIHHIIQIIQ16x", b"\xfeSMB", 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    body = struct.pack("<HHHHI16sQ2H", 36, 2, 1, 0, 0, os.urandom(16), 0, 0x0210, 0x0302)
    try:
        with socket.create_connection((host, port), timeout_s) as server:
            server.sendall(struct.pack(">I", len(header) + len(body)) + header + body)
            answer = server.makefile("rb").read(8)
    except TimeoutError as error:
        raise _away(host, port, f"nothing was heard within {timeout_s:g} s", "SMB") from error
    except OSError as error:
        raise _away(host, port, (error.strerror or str(error)).lower(), "SMB") from error
    if answer[4:] != b"\xfeSMB":  # after the length: an SMB 2 header
        raise _away(host, port, "what answers there is no SMB 2 or 3 server", "SMB")


def _away(host: str, port: int, why: str, protocol: str = "NFS") -> UnavailableError:
    return UnavailableError(
        f"The {protocol} server {host} does not answer on port {port}: {why}.",
        remedy="Check the server and the network to it.",
    )
