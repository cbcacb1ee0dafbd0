"""no_grad and enable_grad: blocks, decorators, generators, coroutines, tasks, threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.on_device import np, tg
from tests.support.tensors import leaf


def test_no_grad_as_context_and_decorator():
    x = leaf(2.0)
    with tg.no_grad():
        assert not (x * x).requires_grad
        with tg.no_grad():
            pass
        assert not (x * x).requires_grad
    assert (x * x).requires_grad

    @tg.no_grad()
    def f(t):
        return t * t

    for _ in range(2):
        assert not f(x).requires_grad
    assert (x * x).requires_grad
    with pytest.raises(KeyError), tg.no_grad():
        raise KeyError
    assert (x * x).requires_grad


def test_a_block_of_a_mode_may_be_used_again_and_nested():
    off, on = tg.no_grad(), tg.enable_grad()
    for _ in range(2):
        with off, off:
            with on, off, on:
                assert tg.is_grad_enabled() and (leaf(2.0) * 2.0).requires_grad
            assert not tg.is_grad_enabled() and not (leaf(2.0) * 2.0).requires_grad
        assert tg.is_grad_enabled()


def test_enable_grad_as_decorator():
    @tg.enable_grad()
    def f(t):
        return t * t

    with tg.no_grad():
        assert f(leaf(2.0)).requires_grad and not tg.is_grad_enabled()


def test_no_grad_holds_inside_a_generator_and_not_between_its_steps():
    seen = []

    @tg.no_grad()
    def counter(n):
        try:
            for i in range(n):
                try:
                    seen.append((yield i, tg.is_grad_enabled()))
                except KeyError:
                    seen.append("thrown")
            return tg.is_grad_enabled()
        finally:
            seen.append(tg.is_grad_enabled())

    def outer():
        return (yield from counter(3))

    steps = outer()
    assert next(steps) == (0, False) and tg.is_grad_enabled()
    assert steps.send("sent") == (1, False) and tg.is_grad_enabled()
    assert steps.throw(KeyError()) == (2, False) and tg.is_grad_enabled()
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value is False
    assert seen == ["sent", "thrown", None, False]

    steps = counter(3)
    next(steps)
    steps.close()
    assert seen[4:] == [False] and tg.is_grad_enabled()


def test_no_grad_holds_inside_a_coroutine():
    @tg.no_grad()
    async def f():
        await asyncio.sleep(0)
        return tg.is_grad_enabled()

    async def main():
        return await f(), tg.is_grad_enabled()

    assert asyncio.run(main()) == (False, True)
    with pytest.raises(TypeError, match="asynchronous generator"):

        @tg.no_grad()
        async def g():
            yield


def test_overlapping_blocks_of_two_tasks_do_not_meet():
    async def computes(entered, leave):
        with tg.no_grad():
            entered.set()
            await leave.wait()
            return tg.is_grad_enabled()

    async def main():
        seen, tasks, leave = [], [], [asyncio.Event(), asyncio.Event()]
        for event in leave:
            entered = asyncio.Event()
            tasks.append(asyncio.create_task(computes(entered, event)))
            await entered.wait()
            seen.append(tg.is_grad_enabled())
        for task, event in zip(
            tasks, leave, strict=True
        ):  # the first to enter is the first to leave
            event.set()
            seen.append(await task)
            seen.append(tg.is_grad_enabled())
        return seen

    assert asyncio.run(main()) == [True, True, False, True, False, True]
    assert tg.is_grad_enabled()


def test_modes_belong_to_their_thread():
    x, seen = leaf(2.0), []

    def other():
        seen.append((x * x).requires_grad)
        with np.errstate(all="ignore"):
            seen.append(np.isinf(tg.log(x * 0.0).item()))

    with tg.no_grad(), tg.detect_anomaly():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not (x * x).requires_grad
    assert seen == [True, True]
