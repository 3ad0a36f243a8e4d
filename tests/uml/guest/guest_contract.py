"""The nfs back end held to the contract on real mounts, as every other back end is."""

from pathlib import Path
from uuid import uuid4

import pytest
from file_storage import FileStorage

from breezeblock.backends.registry import open_backend, read_config
from breezeblock.shares import mounts
from breezeblock.testing import Case, Ending, Scenario, cases, kill_everywhere, kills

ROOT = Path("/run/nfsroot")


def storage(state: Path, version: str, image_format: str) -> FileStorage:
    export = f"/export/contract-{uuid4().hex}"
    Path(f"{ROOT}{export}").mkdir()
    address = f"127.0.0.1:{export}"
    # One base for all tests: nothing is ever unmounted, and each share is another directory.
    config = read_config({"kind": "nfs", "shares": [f"{address} -o vers={version}"]}, "test")
    directory = mounts.mount_point(state / "mnt", address)
    return FileStorage(
        directory, lambda: open_backend("nas", config, state), options={"format": image_format}
    )


# Linked clones by some of their cases only: processes start slowly in here, and merging takes many.
CASES = [
    case
    for case in cases()
    if "linked_clones" not in case.needs or case.name.startswith("related_volumes_can")
]
CASES += [case for case in cases() if case.name.startswith(("flatten_", "shorten_"))]
LONG = {
    "related_volumes_can_be_deleted_in_any_order",
    "any_snapshot_can_be_deleted_in_any_order",
    "flatten_makes_independent",
}
"""Many orders of the same steps, of which no call to the server depends on its version."""
RUNS = [(case, "4.2", "qcow2") for case in CASES]
RUNS += [(case, "3", "raw") for case in CASES if case.name not in LONG]


@pytest.mark.parametrize(("case", "version", "image_format"), RUNS, ids=str)
def test_nfs(case: Case, version: str, image_format: str, tmp_path: Path) -> None:
    case.run(storage(tmp_path, version, image_format))


SOME = [
    (scenario, ending)
    for scenario, ending in kills()
    if str(scenario) in {"create", "snapshot_1", "delete_middle_snapshot", "clone"}
]
LINKED = {"clone_linked_of_volume_written", "delete_parent_of_clones", "delete_last_clone"}
SOME += [(scenario, ending) for scenario, ending in kills() if str(scenario) in LINKED]


@pytest.mark.parametrize(("scenario", "ending"), SOME, ids=str)
def test_nfs_killed(scenario: Scenario, ending: Ending, tmp_path: Path) -> None:
    # Few kills: the local back end, which shares all of this code, is killed before every line.
    report = kill_everywhere(storage(tmp_path, "4.2", "raw"), scenario, ending, stride=12)
    assert report is not None
    assert report.states > 1
