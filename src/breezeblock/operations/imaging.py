"""Operations that bring images in and out."""

from pathlib import Path

import msgspec
import sqlalchemy as sa

from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Placement
from breezeblock.catalog import rows, tables
from breezeblock.engine.port import Json
from breezeblock.images import inspection, remote
from breezeblock.images.addresses import Policy, shown
from breezeblock.operations import image_cache
from breezeblock.operations.job import Job
from breezeblock.operations.run import Verb
from breezeblock.operations.verbs import publish_new, remove_new
from breezeblock.shares import files

SUFFIX = ".image"


def sweep(policy: Policy, live: frozenset[str]) -> list[str]:
    """Remove what operations that are not alive left in the scratch directory; return the names."""
    gone = []
    scratch = Path(policy.scratch)
    for path in sorted({*scratch.glob(f"*{SUFFIX}*"), *scratch.glob(f"{files.TEMPORARY}*")}):
        if not any(operation in path.name for operation in live):
            path.unlink(missing_ok=True)
            gone.append(path.name)
    return gone


def _scratch(job: Job) -> Path:
    directory = Path(job.environment.images.scratch)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / f"{job.id}{SUFFIX}"


def _drop(job: Job) -> None:
    path = _scratch(job)
    for pattern in (f"{path.name}*", f"{files.TEMPORARY}{job.id}-*"):
        for one in path.parent.glob(pattern):
            one.unlink(missing_ok=True)


def _import(job: Job) -> Json:
    done = job.step("import", lambda attempt: msgspec.to_builtins(_brought(job, attempt)))
    _drop(job)
    return done


def _brought(job: Job, attempt: Attempt) -> Placement:
    asked, policy, path = job.arguments["image"], job.environment.images, _scratch(job)
    cached = image_cache.wanted(job)
    image = image_cache.chosen(job) if cached else ""
    before = remote.validator(asked["url"], policy) if cached and not image else ""
    if cached and not image:
        image = image_cache.choose(job, before)
    if not image or not image_cache.is_written(job, image):
        with files.storage_errors("Bringing the image in"):
            remote.fetch(asked["url"], path, policy, attempt)
        if asked["checksum"]:
            remote.verify(path, asked["checksum"], attempt)
        if cached and not image and _unchanged(job, before):
            with files.opened(path) as fd:
                virtual_bytes = inspection.virtual_bytes(fd, asked["format"])
            image = image_cache.make_room(job, virtual_bytes, before, asked["checksum"])
        if not image:
            return job.backend.import_image(job.volume(), str(path), asked["format"], attempt)
        image_cache.write(job, image, path, attempt)
    return image_cache.clone(job, image, attempt)


def _unchanged(job: Job, before: str) -> bool:
    """Tell whether what was fetched can be known again: by a checksum, or by what its source says."""
    asked = job.arguments["image"]
    after = remote.validator(asked["url"], job.environment.images)
    return before == after and bool(before or asked["checksum"])


def _publish_imported(connection: sa.Connection, job: Job, result: Json) -> None:
    publish_new(connection, job, result)
    image_cache.publish(connection, job, result)
    _forget_address(connection, job)


def _undo_import(job: Job) -> None:
    _drop(job)
    remove_new(job)


def _fail_imported(connection: sa.Connection, job: Job) -> None:
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status="error", parent_id=None)
    image_cache.fail(connection, job)
    _forget_address(connection, job)


def _export(job: Job) -> Json:
    asked = job.arguments["image"]

    def bring(attempt: Attempt) -> Json:
        path = _scratch(job)
        if not path.exists():
            # Written once: a second image of some formats would not have the same bytes, and the one
            # that an attempt before this one has brought out could not be told from a stranger's.
            part = path.with_name(f"{path.name}.part")
            job.backend.export_image(job.volume(), None, str(part), asked["format"], attempt)
            files.sync_file(part)
            part.rename(path)
        with files.storage_errors("Bringing the image out"):
            remote.send(path, asked["url"], job.environment.images, attempt)

    job.step("export", bring)
    _drop(job)
    return None


def _undo_export(job: Job) -> None:
    remote.abandon(_scratch(job), job.arguments["image"]["url"], job.environment.images, job.id)
    _drop(job)


def _publish_exported(connection: sa.Connection, job: Job, _result: Json) -> None:
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status="available")
    _forget_address(connection, job)


def _fail_exported(connection: sa.Connection, job: Job) -> None:
    # The volume was only read.
    rows.finish(connection, tables.volumes, job.row.resource_id, job.id, status=job.row.previous_status)
    _forget_address(connection, job)


def _forget_address(connection: sa.Connection, job: Job) -> None:
    """Keep of the address what is no secret: a signed one may be good for hours yet."""
    image = {**job.arguments["image"], "url": shown(job.arguments["image"]["url"])}
    text = msgspec.json.encode({**job.arguments, "image": image}).decode()
    table = tables.operations
    connection.execute(sa.update(table).where(table.c.id == job.id).values(arguments=text))


VERBS: dict[str, Verb] = {
    "import_volume": Verb(_import, _publish_imported, _fail_imported, _undo_import),
    "export_volume": Verb(_export, _publish_exported, _fail_exported, _undo_export),
}
FORMATS = inspection.FORMATS
