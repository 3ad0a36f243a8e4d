"""Real servers on loopback: those that hold volumes, and those that must be refused."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent

APACHE = """
ServerRoot {home}
PidFile {home}/pid
Listen 127.0.0.1:{port}
ServerName localhost
ErrorLog {home}/log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dav_module /usr/lib/apache2/modules/mod_dav.so
LoadModule dav_fs_module /usr/lib/apache2/modules/mod_dav_fs.so
User daemon
Group daemon
DavLockDB {home}/locks
DocumentRoot {home}/data
<Directory {home}/data>
Dav On
Require all granted
</Directory>
"""
NGINX = """
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
daemon off; master_process off; pid {home}/pid; error_log {home}/log;
events {{}}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; client_max_body_size 64m;
  server {{ listen 127.0.0.1:{port};
    location / {{ root {home}/data; dav_methods PUT DELETE MKCOL; dav_ext_methods PROPFIND;
                  create_full_put_path on; }} }}
}}
"""


def apache(home: Path, port: int) -> list[str]:
    (home / "conf").write_text(APACHE.format(home=home, port=port))
    return ["/usr/sbin/apache2", "-DFOREGROUND", "-f", str(home / "conf")]


def nginx(home: Path, port: int) -> list[str]:
    (home / "conf").write_text(NGINX.format(home=home, port=port))
    return ["/usr/sbin/nginx", "-p", str(home), "-e", str(home / "log"), "-c", str(home / "conf")]


def wsgidav(home: Path, port: int) -> list[str]:
    root = ["--root", str(home / "data"), "--auth", "anonymous", "--server", "ext-wsgiutils"]
    return [str(BIN / "wsgidav"), "--host", "127.0.0.1", "--port", str(port), *root, "--no-config", "-q"]


def rclone(home: Path, port: int) -> list[str]:
    return ["rclone", "serve", "webdav", "--addr", f"127.0.0.1:{port}", str(home / "data"), "--config", ""]


def moto(home: Path, port: int) -> list[str]:
    return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]


AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Known to everybody: every emulator has it."""


def azurite(home: Path, port: int) -> list[str]:
    options = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    return [foreign("azurite-blob"), "--blobPort", str(port), *options]


def s3rver(home: Path, port: int) -> list[str]:
    options = ["-a", "127.0.0.1", "-p", str(port), "--configure-bucket", "pool", "--no-vhost-buckets"]
    return [foreign("s3rver"), "-d", str(home / "data"), "--allow-mismatched-signatures", *options]


def foreign(name: str) -> str:
    program = Path(__file__).with_name("objects") / "node_modules" / ".bin" / name
    assert program.exists(), "run tools/setup.sh test, which installs it"
    return str(program)


@contextmanager
def running(command: Callable[[Path, int], list[str]], home: Path) -> Iterator[str]:
    """Start a server; give its URL."""
    (home / "data").mkdir()
    for path in (home, home / "data"):
        path.chmod(0o777)  # Apache does not serve as root
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with (home / "out").open("wb") as out:
        process = subprocess.Popen(command(home, port), stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError(f"{command.__name__} did not start: {(home / 'out').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
