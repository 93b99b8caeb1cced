import asyncio
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anmi_pipeline.judging.pacing import LOWEST_SHARE, Breaker, PaceConfig, Pacer, backoff
from anmi_pipeline.judging.requests import Request
from anmi_pipeline_tests.judging.clock import play


def call(tokens: int = 100, most: int = 10) -> Request:
    return Request("k", {}, most, tokens)


def now() -> float:
    return asyncio.get_running_loop().time()


async def departures(pacer: Pacer, calls: list[Request]) -> list[float]:
    """When each call leaves, seconds after the start; all ask at once."""
    started, times = now(), list[float]()

    async def leave(request: Request) -> None:
        await pacer.wait(request)
        times.append(now() - started)

    await asyncio.gather(*(leave(request) for request in calls))
    return times


def test_calls_leave_at_the_rate_with_a_small_burst():
    pace = PaceConfig(requests_per_minute=6000, headroom=1, burst_seconds=0.05)
    times = play(departures(Pacer(pace), [call()] * 1000))
    assert times == sorted(times)
    assert times[-1] == pytest.approx(10 - 0.05 - 0.01, abs=1e-6)
    window = np.searchsorted(times, np.array(times) + 1.0)
    assert (window - np.arange(1000)).max() <= 100 + 6  # in any second: the rate and one burst


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=60), st.integers(1000, 200_000))
def test_tokens_stay_under_their_limit_in_every_minute(sizes: list[tuple[int, int]], limit: int):
    pace = PaceConfig(tokens_per_minute=limit, headroom=1, burst_seconds=0)
    times = play(departures(Pacer(pace), [call(*size) for size in sizes]))
    tokens = [sum(size) for size in sizes]
    for i, start in enumerate(times):
        within = sum(count for time, count in zip(times[i:], tokens[i:], strict=True) if time < start + 60 - 1e-9)
        assert within <= limit + max(tokens)


def test_input_and_output_tokens_have_limits_of_their_own():
    calls = [call(600, 10)] * 11
    by_input = play(departures(Pacer(PaceConfig(input_tokens_per_minute=600, headroom=1, burst_seconds=0)), calls))
    assert by_input[-1] == pytest.approx(600)
    by_output = play(departures(Pacer(PaceConfig(output_tokens_per_minute=600, headroom=1, burst_seconds=0)), calls))
    assert by_output[-1] == pytest.approx(10)


def test_without_limits_nothing_waits():
    assert play(departures(Pacer(PaceConfig()), [call()] * 100)) == [0] * 100


def test_a_few_refusals_by_chance_do_not_slow_the_rest():
    async def scene() -> float:
        pacer, rng = Pacer(PaceConfig(requests_per_minute=12_000)), np.random.default_rng(0)
        started = now()
        for _ in range(10_000):
            await pacer.wait(call())
            if rng.random() < 0.02:
                pacer.refused(now(), 1.0)
            else:
                pacer.answered(now())
        return 10_000 / (now() - started)

    assert play(scene()) > 0.97 * 200


def test_many_refusals_cut_the_pace_and_silence_all_for_retry_after():
    async def scene() -> tuple[float, float, float]:
        pacer = Pacer(PaceConfig(requests_per_minute=6000, headroom=1, recovery=0.05))
        for i in range(50):
            if i % 2:
                pacer.answered(now())
            else:
                pacer.refused(now(), 7.0 if i == 20 else None)
        cut, before = pacer.per_second, now()
        await pacer.wait(call())
        waited = now() - before
        for _ in range(100):  # 20 s of answers
            await asyncio.sleep(0.2)
            pacer.answered(now())
        return cut, waited, pacer.per_second

    cut, waited, recovered = play(scene())
    assert cut == 50
    assert waited == pytest.approx(7)
    assert recovered == pytest.approx(100)  # .05 of the limit per second, never above it


def test_a_burst_that_was_too_fast_is_punished_once():
    async def scene() -> tuple[float, float]:
        pacer = Pacer(PaceConfig(requests_per_minute=6000, headroom=1, recovery=0.05))
        sent = now()
        await asyncio.sleep(0.05)
        for _ in range(250):
            pacer.answered(sent)
            pacer.refused(sent, None)
        once = pacer.share
        for _ in range(25):
            pacer.answered(now())
            pacer.refused(now(), None)
        return once, pacer.share

    assert play(scene()) == (0.5, 0.25)  # five windows of one burst, then one of calls that left at the lower pace


def test_the_pace_finds_a_limit_that_nobody_told():
    async def scene() -> tuple[float, float]:
        """A server that takes 20 calls per second, and 64 callers that do not know."""
        pacer, bucket = Pacer(PaceConfig()), [20.0, now()]
        answered, refused = 0, 0

        async def caller() -> None:
            nonlocal answered, refused
            while now() < 1000 + 120:
                await pacer.wait(call())
                await asyncio.sleep(0.05)
                bucket[0], bucket[1] = min(bucket[0] + (now() - bucket[1]) * 20, 20), now()
                if bucket[0] >= 1:
                    bucket[0] -= 1
                    answered += 1
                    pacer.answered(now())
                else:
                    refused += 1
                    pacer.refused(now(), None)

        await asyncio.gather(*(caller() for _ in range(64)))
        return answered / 120, refused / (answered + refused)

    rate, share = play(scene())
    assert rate > 0.8 * 20
    assert share < 0.25  # unpaced: 64 callers at 50 ms meet 98 % refusals


def test_the_pace_never_dies():
    async def scene() -> float:
        pacer = Pacer(PaceConfig(requests_per_minute=60))
        for _ in range(3000):
            pacer.refused(now(), 0.1)
        return pacer.share

    assert play(scene()) == LOWEST_SHARE


def test_a_refusal_while_the_next_call_waits_moves_its_time():
    async def scene() -> float:
        pacer = Pacer(PaceConfig(requests_per_minute=60, headroom=1, burst_seconds=0))
        await pacer.wait(call())
        waiting = asyncio.create_task(pacer.wait(call()))
        await asyncio.sleep(0.5)
        for _ in range(50):
            pacer.refused(now(), 10)
        before = now()
        await waiting
        return now() - before

    assert play(scene()) == pytest.approx(10)


def test_a_cancelled_waiter_takes_no_place():
    async def scene() -> float:
        pacer = Pacer(PaceConfig(requests_per_minute=60, headroom=1, burst_seconds=0))
        started = now()
        await pacer.wait(call())
        waiting = asyncio.create_task(pacer.wait(call()))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await pacer.wait(call())
        return now() - started

    assert play(scene()) == pytest.approx(1)


def test_the_breaker_opens_tries_and_closes(caplog: pytest.LogCaptureFixture):
    async def scene() -> tuple[list[float], bool]:
        breaker, started, trials = Breaker(threshold=3, cooldown=5, trials=9), now(), list[float]()
        for _ in range(3):
            assert not await breaker.wait()
            breaker.failed()

        async def worker() -> None:
            trial = await breaker.wait()
            if trial:
                trials.append(now() - started)
                await asyncio.sleep(1)
                if len(trials) < 3:
                    breaker.failed()
                else:
                    breaker.succeeded()

        workers = [asyncio.create_task(worker()) for _ in range(10)]
        await asyncio.gather(*workers)
        return trials, breaker.is_open

    with caplog.at_level(logging.INFO):
        assert play(scene()) == ([5, 5 + 1 + 10, 16 + 1 + 20], False)
    assert "3 calls in a row failed; sending stops for 5 s" in caplog.text
    assert "answers again" in caplog.text


def test_the_breaker_gives_up_after_its_trials():
    async def scene() -> float:
        breaker, started = Breaker(threshold=1, cooldown=40, trials=3), now()
        breaker.failed()
        while not breaker.given_up:
            assert await breaker.wait()
            breaker.failed()
        return now() - started

    assert play(scene()) == 40 + 60 + 60  # a pause is never longer than a minute


def test_another_call_tries_when_the_first_did_not_leave():
    async def scene() -> bool:
        breaker = Breaker(threshold=1, cooldown=1, trials=3)
        breaker.failed()
        assert await breaker.wait()
        second = asyncio.create_task(breaker.wait())
        await asyncio.sleep(0)
        breaker.forgone()
        return await second

    assert play(scene())


def test_failures_between_answers_do_not_open_it():
    async def scene() -> bool:
        breaker = Breaker(threshold=3, cooldown=1, trials=3)
        for _ in range(20):
            breaker.failed()
            breaker.failed()
            breaker.succeeded()
        return breaker.is_open

    assert not play(scene())


@given(st.integers(1, 50), st.one_of(st.none(), st.floats(-5, 100)), st.integers(0, 99))
def test_backoff_grows_with_jitter_and_obeys_the_provider(attempt: int, retry_after: float | None, seed: int):
    delay = backoff(attempt, retry_after, np.random.default_rng(seed), base=0.5, longest=30)
    grown = min(0.5 * 2 ** (attempt - 1), 30)
    if retry_after is None:
        assert grown / 2 <= delay <= grown
    else:
        assert max(retry_after, 0) <= delay <= max(retry_after, 0) + 0.1 * grown
    assert delay == backoff(attempt, retry_after, np.random.default_rng(seed), base=0.5, longest=30)
    assert math.isfinite(delay)
