"""Mirrors on a clock that jumps: every rule by itself, always in the same order."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrors_lab import Flaky, Lab, now, run

from breezeblock.errors import (
    BreezeblockError,
    ConflictError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from breezeblock.objects.http.client import Reply
from breezeblock.objects.stores.answers import BusyError, expect
from breezeblock.objects.stores.port import ExistsError, judged


def fails(
    error: type[BreezeblockError] = UnavailableError, times: int = 1 << 30, verbs: str = "get put prove"
) -> Callable[[str], BreezeblockError | None]:
    left = [times]

    def plan(verb: str) -> BreezeblockError | None:
        if verb not in verbs.split() or not left[0]:
            return None
        left[0] -= 1
        return error("by plan")

    return plan


def test_a_failed_attempt_is_made_elsewhere_at_once_and_a_bad_endpoint_is_left_alone() -> None:
    async def main() -> None:
        lab = Lab(3)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(1)
        lab.ends["e1"].before = fails()
        begun = now()
        for _ in range(100):
            assert await lab.mirrors.get("k") == b"value"
        # Three failures that each cost one more attempt, and no more than the proofs after that.
        assert lab.counts("get")[1] == 3
        assert now() - begun < 1.2
        assert lab.states() == ["up", "down", "up"]
        (status,) = [one for one in lab.mirrors.status().endpoints if one.url == "e1"]
        assert "by plan" in status.trouble
        # 200 ms, doubled up to 30 s: in ten minutes it is asked no more than that allows.
        before = lab.counts("prove")[1]
        await asyncio.sleep(600)
        assert 20 <= lab.counts("prove")[1] - before <= 60
        lab.ends["e1"].before = fails(times=0)
        await asyncio.sleep(31)
        assert lab.states() == ["up"] * 3
        assert sorted(lab.qualified) == ["e0", "e1", "e2"], "one probe each"
        await lab.mirrors.close()

    run(main())


def test_the_slow_one_of_three_gets_little_and_late_reads_are_hedged_within_the_budget() -> None:
    async def main() -> None:
        lab = Lab(3)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(1)
        times = []
        for number in range(2000):
            if number == 500:
                lab.ends["e2"].delay_s = 0.25
            begun = now()
            await lab.mirrors.get("k")
            times.append(now() - begun)
        asked = sum(lab.counts("get"))
        hedged = sum(one.hedged for one in lab.mirrors.status().endpoints)
        assert asked - hedged == 2000
        assert 0 < hedged <= 0.05 * 2000 + 8
        assert lab.counts("get")[2] < 500 / 3 + 300
        assert sorted(times)[1990] < 0.05, "of 200 reads one may wait long"
        await lab.mirrors.close()

    run(main())


def test_writes_are_not_hedged_and_a_lost_answer_to_a_create_is_ones_own_work() -> None:
    async def main() -> None:
        lab = Lab(2, attempt_s=1.0)
        await lab.mirrors.open()
        await asyncio.sleep(1)
        for end in lab.ends.values():
            end.after = fails(times=1, verbs="put")
        await lab.mirrors.put("k", b"mine", create=True)
        assert lab.inner.objects["k"] == b"mine"
        assert sum(lab.counts("put")) == 2, "the second found the first one's work"
        with pytest.raises(ExistsError):
            await lab.mirrors.put("k", b"mine", create=True)
        lab.ends["e0"].after = fails(times=1, verbs="put")
        lab.ends["e1"].after = fails(times=1, verbs="put")
        with pytest.raises(ExistsError):
            await lab.mirrors.put("k", b"other", create=True)
        tag = (await lab.mirrors.head("k")).tag
        lab.ends["e0"].after = fails(times=1, verbs="put")
        lab.ends["e1"].after = fails(times=1, verbs="put")
        await lab.mirrors.put("k", b"newer", match=tag)
        for number in range(40):
            await lab.mirrors.put(f"k{number}", b"mine")
        before = sum(lab.counts("put"))
        lab.ends["e0"].delay_s = lab.ends["e1"].delay_s = 0.5
        await lab.mirrors.put("late", b"mine")
        assert sum(lab.counts("put")) == before + 1
        await lab.mirrors.close()

    run(main())


def test_without_a_path_operations_wait_or_fail_as_the_policy_says() -> None:
    async def main() -> None:
        lab = Lab(2)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        for end in lab.ends.values():
            end.before = fails()
        waiting = [asyncio.ensure_future(lab.mirrors.get("k")) for _ in range(5)]
        await asyncio.sleep(3600)
        assert lab.states() == ["down", "down"]
        assert lab.mirrors.status().waiting == 5
        for end in lab.ends.values():
            end.before = fails(times=0)
        assert await asyncio.gather(*waiting) == [b"value"] * 5
        assert not lab.mirrors.status().waiting
        await lab.mirrors.close()

        lab = Lab(2, on_no_path="error")
        await lab.mirrors.open()
        for end in lab.ends.values():
            end.before = fails()
        begun = now()
        with pytest.raises(UnavailableError, match="by plan"):
            await lab.mirrors.get("k")
        assert now() - begun < 10
        await lab.mirrors.close()

    run(main())


def test_an_operation_ends_at_its_deadline_however_often_endpoints_come_back() -> None:
    async def main() -> None:
        lab = Lab(2, deadline_s=20)
        await lab.mirrors.open()
        for end in lab.ends.values():
            end.before = fails(verbs="put")
        begun = now()
        with pytest.raises(UnavailableError, match="by plan"):
            await lab.mirrors.put("k", b"value")
        assert now() - begun > 20
        assert sum(lab.counts("put")) < 200, "it paused in between"
        await lab.mirrors.close()

    run(main())


def test_a_black_hole_costs_one_attempt_and_is_noticed() -> None:
    async def main() -> None:
        lab = Lab(2, attempt_s=2.0)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(1)
        lab.ends["e0"].delay_s = 1e9
        begun = now()
        await asyncio.gather(*(lab.mirrors.put(f"k{number}", b"value") for number in range(40)))
        assert now() - begun < 3
        assert lab.states() == ["down", "up"]
        assert len(lab.inner.objects) == 41
        await lab.mirrors.close()

    run(main())


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks_and_gets_less_at_a_time() -> None:
    async def main() -> None:
        lab = Lab(1, deadline_s=100)
        await lab.mirrors.open()
        end = lab.ends["e0"]
        end.before = lambda verb: BusyError("by plan", retry_after_s=7) if len(end.asked) < 4 else None
        begun = now()
        await lab.mirrors.put("k", b"value")
        assert 14 <= now() - begun < 30
        assert lab.states() == ["up"], "busy is not broken"
        limit = lab.mirrors.status().endpoints[0].limit
        assert limit == 16
        most = 0
        end.before = fails(times=0)

        async def watch() -> None:
            nonlocal most
            await lab.mirrors.put("k", b"value")
            most = max(most, lab.mirrors.status().endpoints[0].requests)

        await asyncio.gather(*(watch() for _ in range(500)))
        assert limit - 1 <= most <= 64
        assert lab.mirrors.status().endpoints[0].limit > limit
        await lab.mirrors.close()

    run(main())


def test_refused_credentials_are_read_again_once_and_then_keep_the_endpoint_out() -> None:
    async def main() -> None:
        lab = Lab(1)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        end, made = lab.ends["e0"], len(lab.made)
        end.before = fails(ForbiddenError, times=1)
        assert await lab.mirrors.get("k") == b"value"
        assert len(lab.made) == made + 1
        assert end.closed == 1
        end.before = fails(ForbiddenError)
        waiting = asyncio.ensure_future(lab.mirrors.get("k"))
        await asyncio.sleep(100)
        assert lab.states() == ["down"]
        end.before = fails(times=0)  # the operator renewed them
        assert await waiting == b"value"
        await lab.mirrors.close()
        lab = Lab(2)
        for one in lab.ends.values():
            one.before = fails(ForbiddenError)
        with pytest.raises(ForbiddenError):
            await lab.mirrors.open()
        await lab.mirrors.close()

    run(main())


def test_who_is_not_the_pool_is_not_believed_that_objects_are_gone() -> None:
    async def main() -> None:
        lab = Lab(2)
        lab.ends["e1"].shows = False
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(100)
        assert lab.states() == ["up", "refused"]
        assert lab.counts("put")[1] == 0
        lab.ends["e1"].shows = True
        await asyncio.sleep(31)
        assert lab.states() == ["up", "up"]
        lab.ends["e1"].shows = False
        lab.ends["e1"].before = lambda verb: NotFoundError("no such file") if verb == "get" else None
        for _ in range(50):
            assert await lab.mirrors.get("k") == b"value"
        assert lab.states() == ["up", "refused"]
        with pytest.raises(NotFoundError):
            await lab.mirrors.get("absent")
        assert lab.states() == ["up", "refused"]
        await lab.mirrors.close()

    run(main())


def test_wrong_data_is_taken_from_another_endpoint_and_the_liar_left_alone() -> None:
    async def main() -> None:
        lab = Lab(3)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(1)
        lab.ends["e0"].taint = lambda data: data[::-1]

        def judge(data: bytes) -> str:
            if data != b"value":
                raise CorruptError("k is damaged")
            return "sound"

        for _ in range(100):
            assert await judged(lab.mirrors, "k", judge) == "sound"
        assert lab.counts("get")[0] <= 3
        assert lab.states() == ["refused", "up", "up"]
        with pytest.raises(CorruptError, match="k is damaged"):
            await judged(lab.mirrors, "k", lambda data: judge(data[1:]))
        assert lab.states() == ["refused", "up", "up"], "the object is damaged, and no endpoint"
        await lab.mirrors.close()

    run(main())


def test_endpoints_come_and_go_at_run_time() -> None:
    async def main() -> None:
        lab = Lab(1)
        await lab.mirrors.open()
        await lab.mirrors.put("k", b"value")
        lab.ends["e9"] = Flaky(lab.inner, "e9")
        lab.mirrors.add("e9")
        lab.mirrors.add("e9")
        await asyncio.sleep(1)
        assert lab.qualified == ["e0", "e9"]
        lab.ends["e0"].delay_s = 5
        slow = [asyncio.ensure_future(lab.mirrors.put(f"k{number}", b"value")) for number in range(2)]
        await asyncio.sleep(0.001)
        lab.mirrors.remove("e0")
        with pytest.raises(NotFoundError):
            lab.mirrors.remove("e0")
        with pytest.raises(ConflictError, match="last"):
            lab.mirrors.remove("e9")
        assert await lab.mirrors.get("k") == b"value"
        await asyncio.gather(*slow)
        await asyncio.sleep(0.01)
        assert lab.ends["e0"].closed == 1
        assert [one.url for one in lab.mirrors.status().endpoints] == ["e9"]
        await lab.mirrors.close()

    run(main())


def mishaps(dice: random.Random, chance: float) -> Callable[[str], BreezeblockError | None]:
    def mishap(verb: str) -> BreezeblockError | None:
        if dice.random() >= chance:
            return None
        busy = BusyError("by plan", retry_after_s=dice.choice([None, 2]))
        return dice.choice([UnavailableError("by plan"), ForbiddenError("by plan"), busy])

    return mishap


def judged_race(results: list[BaseException | None], body: bytes | None) -> None:
    for host, result in enumerate(results):
        if result is None:
            assert body == b"%d" % host, "who is told that he won did"
        elif isinstance(result, ExistsError):
            assert body is not None, "who is told that he lost met an object"
        else:
            assert isinstance(result, UnavailableError | ForbiddenError), result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([0.05, 0.3, 0.6]))
def test_whatever_fails_each_operation_ends_and_of_two_creators_one_wins(seed: int, chance: float) -> None:
    """Two hosts create the same keys while requests fail, are lost after their effect, or hang."""
    dice = random.Random(seed)

    async def main() -> None:
        hosts = [Lab(3, seed=dice.randrange(1 << 30), attempt_s=1.0) for _ in range(2)]
        ends = [end for lab in hosts for end in lab.ends.values()]
        for lab in hosts:
            await lab.mirrors.open()
        for end in ends:
            end.inner = hosts[0].inner
            end.before = end.after = mishaps(dice, chance)
            end.delay_s = dice.choice([0.001, 0.01, 0.3] + [5] * (end.name != "e0"))
        for key in ("k1", "k2", "k3"):
            puts = [lab.mirrors.put(key, b"%d" % host, create=True) for host, lab in enumerate(hosts)]
            results = await asyncio.gather(*puts, return_exceptions=True)
            judged_race(results, hosts[0].inner.objects.get(key))
        for end in ends:
            end.before = end.after = fails(times=0)
            end.delay_s = 0.01
        await asyncio.sleep(61)
        for lab in hosts:
            assert lab.states() == ["up"] * 3
            assert not lab.mirrors.status().waiting
            await lab.mirrors.close()

    run(asyncio.wait_for(main(), 3600))


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        (503, {"retry-after": "7"}, 7.0),
        (503, {}, None),
        (429, {}, 1.0),
        (503, {"retry-after": "soon"}, None),
        (503, {"retry-after": "9" * 400}, 999999999.0),
        (
            503,
            {"retry-after": "Sat, 01 Jan 2000 00:01:30 GMT", "date": "Sat, 01 Jan 2000 00:00:00 GMT"},
            90.0,
        ),
    ],
)
def test_servers_say_how_long_they_want_to_be_left_alone(
    status: int, headers: dict[str, str], pause: float | None
) -> None:
    with pytest.raises(BusyError) as busy:
        expect(Reply(status, headers, b""), "GET", 200)
    assert busy.value.retry_after_s == pause
