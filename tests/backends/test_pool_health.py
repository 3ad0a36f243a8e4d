"""When a pool counts as down and when as up again."""

import pytest

from breezeblock.backends import health
from breezeblock.backends.health import Health
from breezeblock.errors import PoolDownError


def test_down_with_the_first_reason_s_time_and_the_last_reason() -> None:
    pool = Health("nas#a")
    pool.check()
    assert pool.fell("It is silent.")
    since = pool.down.partition(": ")[0]
    assert not pool.fell("It refuses.")
    assert pool.down == f"{since}: It refuses."
    with pytest.raises(
        PoolDownError, match=r"Pool nas#a is down since 2.*Z: It refuses\. Work on it goes on"
    ):
        pool.check()


def test_up_after_good_looks_in_a_row() -> None:
    pool = Health("a")
    pool.fell("x")
    assert not pool.answered()
    pool.fell("x")
    assert [pool.answered() for _ in range(health.GOOD_LOOKS)] == [False, True]
    assert pool.answered()
    pool.check()


def test_who_falls_often_must_be_good_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def needed(pool: Health) -> int:
        pool.fell("x")
        looks = 1
        while not pool.answered():
            looks += 1
        return looks

    pool = Health("a")
    assert [needed(pool) for _ in range(6)] == [2, 4, 8, 16, 16, 16]
    monkeypatch.setattr(health, "FLAPPING_S", 0.0)
    assert needed(pool) == 2
