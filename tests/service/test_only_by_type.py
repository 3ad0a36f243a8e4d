"""A pool that takes only what asks for it."""

from pathlib import Path

import pytest
from running import ADMIN, ME, running

from breezeblock.config import PoolPolicy
from breezeblock.errors import InvalidInputError
from breezeblock.service import volume_types, volumes
from breezeblock.service.core import GIB


def test_a_pool_may_be_kept_for_volumes_whose_type_names_it(tmp_path: Path) -> None:
    with running(tmp_path, policy=PoolPolicy(only_by_type=True)) as run:
        with pytest.raises(InvalidInputError, match="only volumes whose type names it"):
            volumes.create(run.service, ME, volumes.NewVolume(virtual_bytes=GIB))
        for name, specs in (
            ("named", {"volume_backend_name": "memory"}),
            ("scoped", {"capabilities:storage_protocol": "memory"}),
        ):
            volume_types.create(run.service, ADMIN, name=name, extra_specs=specs)
            made = run.volume(volume_type=name)
            volumes.extend(run.service, ME, made, 2 * GIB)
            assert run.until_volume(made, "available", "error_extending") == "available"
        volume_types.create(run.service, ADMIN, name="vague", extra_specs={"vendor_name": "Breezeblock"})
        with pytest.raises(InvalidInputError, match="only volumes whose type names it"):
            run.volume(volume_type="vague")
