"""The command, with the pools of `local` back ends served by helper processes as NFS's are."""

from pathlib import Path

import msgspec

from breezeblock.backends import registry
from breezeblock.backends.local import LocalConfig, open_local
from breezeblock.backends.parts import Key, Parts
from breezeblock.cli import main
from breezeblock.errors import UnavailableError


def parts(_name: str, config: LocalConfig) -> Parts:
    def narrow(pools: Key) -> LocalConfig:
        return msgspec.structs.replace(config, pools={pool: config.pools[pool] for pool in pools})

    def ping(pool: str) -> None:
        if not Path(config.pools[pool]).is_dir():
            raise UnavailableError(f"{pool} is gone.")

    return Parts(
        pools=tuple(config.pools),
        narrow=narrow,
        ping=ping,
        answer_timeout_s=10,
        look_limit_s=20,
        silence_timeout_s=60,
    )


if __name__ == "__main__":
    registry.KINDS = {**registry.KINDS, "local": registry.Kind(LocalConfig, open_local, parts)}
    main()
