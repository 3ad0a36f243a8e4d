"""`python -m xenserver`: run a pool until it is told to stop. Prints one line of JSON when it is ready."""

import argparse
import hashlib
import json
import os
import shutil
import signal
import ssl
import sys
import tempfile
import threading
from pathlib import Path

from xenserver.certificate import make_certificate
from xenserver.nbd import NbdServer
from xenserver.pool import Pool, Settings
from xenserver.server import HostServer, free_port


def main() -> None:
    """Read options, serve, clean up."""
    parser = argparse.ArgumentParser(prog="python -m xenserver", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port on 127.0.0.1, 127.0.0.2, …; default: a free one"
    )
    parser.add_argument("--hosts", type=int, default=2, help="hosts in the pool; the first is the master")
    parser.add_argument("--http", action="store_true", help="no TLS")
    parser.add_argument("--nbd", action="store_true", help="disks can be read by NBD, over TLS")
    parser.add_argument("--qcow2", action="store_true", help="drivers have QCOW2, as newer hosts' do")
    parser.add_argument("--lacking", default="", help="SM features that no driver has, with spaces")
    parser.add_argument("--cluster", action="store_true", help="the hosts are a cluster, as gfs2 needs it")
    parser.add_argument("--without", default="", help="types of SR that there is no driver for, with spaces")
    parser.add_argument("--xml-only", action="store_true", help="no JSON-RPC, as old hosts")
    parser.add_argument("--capacity", type=int, default=1 << 40, help="bytes of each SR")
    parser.add_argument("--luns", default="", help="sizes of the LUNs of a LUN SR, in bytes, with commas")
    parser.add_argument("--coalesce-delay", type=float, default=0.2, help="seconds the collector lags")
    parser.add_argument(
        "--session-timeout", type=float, default=86400.0, help="seconds until a session expires"
    )
    parser.add_argument("--features", default="", help="further SM features for all types, with spaces")
    parser.add_argument(
        "--round", type=int, default=0, help="bytes that sizes are rounded up to; default: as the type"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where data is kept; default: temporary")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="xenserver-"))
    settings = Settings(
        hosts=given.hosts,
        capacity=given.capacity,
        coalesce_delay_s=given.coalesce_delay,
        session_timeout_s=given.session_timeout,
        extra_features=given.features,
        lacking=given.lacking.split(),
        round_bytes=given.round,
        folder=folder / "data",
        qcow2=given.qcow2,
        cluster=given.cluster,
        without=given.without.split(),
    )
    if given.luns:
        settings.luns = [int(size) for size in given.luns.split(",")]
    # Nobody relies on what is here after a power cut.
    os.fsync = os.fdatasync = lambda _fd: None  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pool = Pool(settings)
    tls, fingerprint = None, ""
    if given.nbd or not given.http:
        certificate = make_certificate(folder, [f"127.0.0.{n + 1}" for n in range(given.hosts)])
        pool.certificate = ssl_first(certificate.read_text())
    if given.nbd:
        pool.nbd = {host: NbdServer(pool, host, certificate).start() for host in pool.hosts}
    if not given.http:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pool.certificate)).hexdigest()
    port = given.port or free_port()
    servers = [HostServer(pool, host, port, tls, json_rpc=not given.xml_only) for host in pool.hosts]
    back = HostServer(pool, pool.hosts[0], 0, None)
    for server in (*servers, back):
        server.start()
    threading.Thread(target=pool.collect_for_ever, daemon=True).start()
    ready = {
        "url": f"{servers[0].scheme}://127.0.0.1:{port}",
        "fingerprint": fingerprint,
        "back_door": f"http://127.0.0.1:{back.server_address[1]}/_sim",
    }
    print(json.dumps(ready), flush=True)
    try:
        if given.with_parent:
            sys.stdin.read()
        else:
            threading.Event().wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ssl_first(text: str) -> str:
    """Return the certificate in a file that also holds its key."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----\n"
    return text[text.index(begin) : text.index(end) + len(end)]


if __name__ == "__main__":
    main()
