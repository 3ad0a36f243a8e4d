"""`python -m benchmarks --yardsticks DIR [--peer FILE]`: measure the service with volbench and its kin.

The yardsticks take any Block Storage v3 endpoint; DIR holds volbench.py, crashbench.py, audit-nfs.py,
fill-nfs.sh and sum-nfs.sh. FILE is volbench's output for a peer on the same kind of machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.deployment import Deployment, free_port, load

VERBS = (
    ("create", "lifecycle_ms", "create_volume"),
    ("snapshot", "lifecycle_ms", "create_snapshot"),
    ("snapshot delete", "lifecycle_ms", "delete_snapshot"),
    ("extend", "extend_ms", "extend_volume"),
    ("volume from snapshot", "lifecycle_ms", "volume_from_snapshot"),
    ("clone", "lifecycle_ms", "clone_volume"),
    ("delete", "lifecycle_ms", "delete_volume"),
    ("attachment create", "attach_ms", "attachment_create"),
    ("attachment delete", "attach_ms", "attachment_delete"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--yardsticks", type=Path, required=True)
    parser.add_argument("--peer", type=Path, help="volbench's output for a peer")
    parser.add_argument("--only", choices=["verbs", "list", "start", "crash"], action="append")
    parser.add_argument("--kills", type=int, default=28)
    parser.add_argument("--window", type=float, default=1.0, help="scale of the delay before each kill")
    parser.add_argument(
        "--clone",
        choices=["linked", "full"],
        default="linked",
        help="audit-nfs.py takes what linked clones rest on for leaks",
    )
    parser.add_argument(
        "--smb", choices=["vhd", "vhdx", "qcow2", "raw"], default="", help="volumes of an SMB share instead"
    )
    parser.add_argument("--seed", nargs=2, metavar=("DIRECTORY", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.seed:
        deployment = Deployment(Path(chosen.seed[0]), 0)
        count = int(chosen.seed[1])
        deployment.seed(count) if count else deployment.unseed()
        return
    only = chosen.only or ["verbs", "list", "start", "crash"]
    peer = json.loads(chosen.peer.read_text()) if chosen.peer else {}
    with tempfile.TemporaryDirectory(prefix="breezeblock-bench-") as directory:
        deployment = Deployment(Path(directory), free_port(), chosen.clone, chosen.smb)
        deployment.prepare()
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {load()}")
        deployment.run()
        try:
            for name in only:
                {"verbs": _verbs, "list": _list, "start": _start, "crash": _crash}[name](
                    deployment, chosen, peer
                )
        finally:
            deployment.end()


def _verbs(deployment: Deployment, chosen: argparse.Namespace, peer: dict[str, Any]) -> None:
    found = _volbench(
        deployment, chosen, "--poll", "0.002", "--scenarios", "lifecycle,extend,attach,concurrent"
    )
    print("\n| end to end, median ms | peer | ours | times |\n|---|---|---|---|")
    for text, section, key in VERBS:
        _row(text, peer.get(section, {}).get(key, {}).get("median"), found[section][key]["median"])
    crowd = "median_all_available_ms"
    _row(
        "50 concurrent creates",
        peer.get("concurrent_create", {}).get(crowd),
        found["concurrent_create"][crowd],
    )
    print(f"\nresident set {deployment.resident_mib():.0f} MiB, load {load()}")


def _list(deployment: Deployment, chosen: argparse.Namespace, peer: dict[str, Any]) -> None:
    seed = f"{sys.executable} -m benchmarks --yardsticks {chosen.yardsticks} --seed {deployment.directory}"
    found = _volbench(
        deployment,
        chosen,
        *("--scenarios", "list", "--sizes", "10,1000,10000"),
        *("--seed-cmd", f"{seed} {{n}}", "--unseed-cmd", f"{seed} 0"),
    )
    print("\n| list with details, median ms | peer | ours | times |\n|---|---|---|---|")
    for size in ("10", "1000", "10000"):
        theirs = peer.get("list_ms", {}).get(size, {}).get("detail", {}).get("median")
        _row(f"first 1,000 of {int(size):,}", theirs, found["list_ms"][size]["detail"]["median"])


def _start(deployment: Deployment, _chosen: argparse.Namespace, _peer: dict[str, Any]) -> None:
    import requests

    times = []
    for _ in range(5):
        deployment.end()
        began = time.perf_counter()
        deployment.run()
        body: Any = {"volume": {"size": 1, "name": "start"}}
        volume = requests.post(f"{deployment.endpoint}/volumes", json=body, timeout=30).json()["volume"]["id"]
        while requests.get(f"{deployment.endpoint}/volumes/{volume}", timeout=30).json()["volume"][
            "status"
        ] != ("available"):
            time.sleep(0.002)
        times.append(time.perf_counter() - began)
        requests.delete(f"{deployment.endpoint}/volumes/{volume}", timeout=30)
        time.sleep(0.2)
    print(f"\nfirst volume available {sorted(times)[2]:.2f} s after the start (median of 5), load {load()}")


def _crash(deployment: Deployment, chosen: argparse.Namespace, _peer: dict[str, Any]) -> None:
    tools, pool = chosen.yardsticks, deployment.pool
    command = [
        *(sys.executable, str(tools / "crashbench.py"), "--endpoint", deployment.endpoint),
        *("--kill", deployment.kill, "--restart", deployment.start),
        *("--audit", f"{tools}/audit-nfs.py {pool}"),
        *("--fill", f"{tools}/fill-nfs.sh {pool} {{id}} {{mib}}"),
        *("--checksum", f"{tools}/sum-nfs.sh {pool} {{id}}"),
        *("--kills", str(chosen.kills), "--settle", "3", "--window", str(chosen.window)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    print(f"\n{found['kills']} kills, {found['operations']} operations, window {chosen.window}:")
    for key, value in found.items():
        if isinstance(value, int) and key not in {"kills", "operations"}:
            print(f"  {key.replace('_', ' ')}: {value}")


def _volbench(deployment: Deployment, chosen: argparse.Namespace, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(chosen.yardsticks / "volbench.py"), "--endpoint", deployment.endpoint]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["errors"]:
        raise SystemExit("\n".join(found["errors"]))
    return found


def _row(text: str, theirs: float | None, ours: float) -> None:
    times = f"{theirs / ours:.1f}" if theirs else ""
    print(f"| {text} | {theirs or ''} | {ours} | {times} |")


main()
