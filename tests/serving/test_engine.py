"""The engine's turns: short work in every round, long work by urgency, and nothing waits for work that waits."""

import asyncio

import pytest

from omni.serving.engine import Engine, Work
from omni.serving.errors import ApiError
from omni.serving.waiting import ServiceTimes


@pytest.fixture
def engine():
    """An engine without models; it does not start by itself."""
    return Engine(None, max_running=3, max_queue=1)


def collect(engine, *jobs):
    """Submits jobs, each a list of works, before the engine starts; returns their events."""

    async def events_of(job):
        return [event async for event in job]

    async def run():
        submitted = [engine.submit(*works) for works in jobs]
        engine.start()
        try:
            return await asyncio.wait_for(asyncio.gather(*map(events_of, submitted)), 10)
        finally:
            engine.stop()

    return asyncio.run(run())


def test_long_work_is_taken_by_urgency(engine):
    order = []

    def steps(name):
        for number in range(3):
            order.append(name)
            yield number

    values = {"a": 3, "b": 1, "c": 2}
    jobs = [[Work(steps(name), lambda name=name: values[name])] for name in values]
    assert collect(engine, *jobs) == [[0, 1, 2]] * 3
    assert order == ["b"] * 3 + ["c"] * 3 + ["a"] * 3


def test_urgent_work_that_waits_holds_up_nothing(engine):
    texts = []

    def speech():
        while len(texts) < 5:
            yield None
        yield "sound"

    def other():
        for number in range(5):
            texts.append(number)
            yield number

    assert collect(engine, [Work(speech(), lambda: -1000)], [Work(other(), lambda: 1000)]) == [
        ["sound"],
        [0, 1, 2, 3, 4],
    ]


def test_short_work_takes_a_step_in_each_round(engine):
    order = []

    def steps(name, count):
        for _ in range(count):
            order.append(name)
            yield name

    collect(engine, [Work(steps("long", 4), lambda: 0)], [Work(steps("short", 4))])
    assert order[:8].count("short") == 4
    assert order[1::2] == ["long"] * 4


def test_a_job_ends_with_the_last_of_its_works(engine):
    first, second = Work(iter_of(1, 2)), Work(iter_of(3, 4, 5), lambda: 0)
    ((*events,),) = collect(engine, [first, second])
    assert sorted(events) == [1, 2, 3, 4, 5]


def iter_of(*values):
    yield from values


def test_no_more_than_max_running_at_once(engine):
    running, most = set(), []

    def steps(name):
        running.add(name)
        for _ in range(3):
            most.append(len(running))
            yield name
        running.discard(name)

    assert len(collect(engine, *[[Work(steps(name))] for name in range(4)])) == 4
    assert max(most) == 3


def test_a_full_engine_refuses(engine):
    async def run():
        for _ in range(4):
            engine.submit(Work(iter_of(1)))
        with pytest.raises(ApiError) as error:
            engine.submit(Work(iter_of(1)))
        assert error.value.status == 429

    asyncio.run(run())


def test_a_cancelled_job_is_closed_and_others_go_on(engine):
    closed = []

    def steps():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def run():
        endless = engine.submit(Work(steps()))
        engine.start()
        assert await anext(endless) == 1
        endless.cancel()
        other = engine.submit(Work(iter_of("a", "b")))
        assert [event async for event in other] == ["a", "b"]
        _ = [event async for event in endless]
        engine.stop()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert closed == [True]


def test_jobs_that_remain_at_the_end_fail(engine):
    def endless():
        while True:
            yield 1

    async def run():
        job = engine.submit(Work(endless()))
        engine.start()
        await anext(job)
        engine.stop()
        with pytest.raises(ApiError) as error:
            _ = [event async for event in job]
        assert error.value.status == 503
        with pytest.raises(ApiError):
            engine.submit(Work(iter_of(1)))

    asyncio.run(run())


def test_long_work_waits_for_a_client_that_does_not_read(engine):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield 1

    async def run():
        unread = engine.submit(Work(endless(), lambda: -1))
        engine.start()
        other = engine.submit(Work(iter_of(*range(300)), lambda: 1))
        assert len([event async for event in other]) == 300
        assert len(taken) == 64
        for _ in range(60):
            await anext(unread)
        while len(taken) < 110:
            await asyncio.sleep(0.001)
        engine.stop()

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize(("seconds", "wanted"), [(0.1, "1"), (6.5, "10"), (1000.0, "120")])
def test_a_refusal_says_when_to_try_again(seconds, wanted):
    """Three jobs wait for two rows, whose jobs took `seconds` before."""
    now = [0.0]
    engine = Engine(None, max_running=2, max_queue=3, clock=lambda: now[0])

    def ended():
        yield "started"
        now[0] += seconds
        yield "ended"

    def endless():
        while True:
            yield None

    async def run():
        engine.start()
        try:
            for _ in range(2):
                assert [event async for event in engine.submit(Work(ended()))] == ["started", "ended"]
            while engine.num_running:
                await asyncio.sleep(0.001)
            for number in range(5):
                engine.submit(Work(endless()))
                while number < 2 and engine.num_running <= number:
                    await asyncio.sleep(0.001)
            with pytest.raises(ApiError) as error:
                engine.submit(Work(endless()))
            return error.value
        finally:
            engine.stop()

    refused = asyncio.run(run())
    assert refused.status == 429
    assert refused.headers["Retry-After"] == wanted


def test_recent_jobs_count_more():
    times = ServiceTimes()
    for seconds in [100.0] * 10 + [2.0] * 200:
        times.add(seconds)
    assert times.mean == pytest.approx(2, abs=0.5)
    times = ServiceTimes()
    for seconds in (1.0, 2.0, 6.0):
        times.add(seconds)
    assert times.mean == pytest.approx(3)
