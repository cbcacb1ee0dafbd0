"""JAX as a contender: a whole step is one function under jit, whose state's buffers are donated.

A step does what tinygen's does: a batch from shuffled rows, noise, loss, gradient, clipping by the
global norm, Adam, and the average of the parameters where the model has one. It does not wait for
the loss, which tinygen's loop records: only the end of a round does. A sampling is one jit too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax, random
from jax import numpy as jnp

from benchmarks.engine import applied
from benchmarks.suite import solving
from benchmarks.suite.contract import Case, Opened, Tick, part
from benchmarks.suite.jax_networks import Arrays, denoiser, objectives
from benchmarks.suite.workloads import RATE, Workload

__all__ = ["opened"]

Key = Any


def opened(work: Workload, arrays: Case, compiled: bool) -> Opened:
    """A workload, ready to be compared and run; JAX always compiles."""
    if work.kind == "solve":
        return solving.opened("jax", work.model, arrays, compiled)
    if work.kind == "chain":
        return chain(work, arrays)
    named = part(arrays, "weights") | part(arrays, "constants")
    learned = part(arrays, "learned")
    p = {name: jnp.array(a) for name, a in named.items() if name in learned}
    rest = {name: jnp.array(a, jnp.float32) for name, a in named.items() if name not in learned}
    if work.kind == "sample":
        return sampling(work, arrays, {**rest, **p})
    return training(work, arrays, p, rest)


# -- training --------------------------------------------------------------------------------------
def training(work: Workload, arrays: Case, p: Arrays, rest: Arrays) -> Opened:
    losses = objectives(work)
    draw = drawing(work, arrays)
    trained = {o: [k for k in p if k.startswith(start)] for o, (start, _) in losses.items()}
    update = partial(adam, float(arrays["clip"]), float(arrays["decay"]), work.model == "gan")

    @partial(jax.jit, donate_argnums=0)
    def step(state: Arrays, rest: Arrays, data: Any, rows: Any) -> Arrays:
        key, now = random.split(state["key"])
        x = data[rows]
        p, moments = state["p"], dict(state["moments"])
        for i, (o, (_, loss)) in enumerate(losses.items()):
            mine, others = halves(p, trained[o])
            draws = draw(random.fold_in(now, i), o, x)
            gradients = jax.grad(loss)(mine, {**rest, **others}, x, draws)
            mine, moments[o] = update(mine, gradients, moments[o])
            p = {**p, **mine}
        return {"p": p, "moments": moments, "key": key}

    @jax.jit
    def slopes(p: Arrays, rest: Arrays, x: Any, draws: dict[str, Arrays]) -> Arrays:
        found = {}
        for o, (_, loss) in losses.items():
            mine, others = halves(p, trained[o])
            value, gradients = jax.value_and_grad(loss)(mine, {**rest, **others}, x, draws[o])
            found |= {f"{o}/loss": value, **{f"{o}/{k}": g for k, g in gradients.items()}}
        return found

    def results() -> Case:
        draws = {o: part(arrays, f"draws/{o}") for o in losses}
        return {k: np.array(a) for k, a in slopes(p, rest, arrays["batch"], draws).items()}

    def run(tick: Tick) -> None:
        moments = {o: start({k: p[k] for k in mine}) for o, mine in trained.items()}
        copies = jax.tree.map(jnp.copy, p)  # the step takes their buffers
        state = {"p": copies, "moments": moments, "key": key_of(0)}
        data, rows = jnp.array(arrays["data"]), indices(len(arrays["data"]), work.batch)
        while True:
            tick(partial(jax.block_until_ready, state))
            state = step(state, rest, data, next(rows))

    return Opened(results, run)


def key_of(seed: int) -> Key:
    """Of the generator that is faster on a CPU than JAX's usual one."""
    return random.key(seed, impl="rbg")


def halves(p: Arrays, names: list[str]) -> tuple[Arrays, Arrays]:
    """Those of the names, and the others."""
    return {k: p[k] for k in names}, {k: a for k, a in p.items() if k not in names}


def indices(n: int, size: int) -> Iterator[Any]:
    """Rows in an order that is shuffled anew for every pass over the data, without end."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(n)
        for i in range(n // size):
            yield order[i * size : (i + 1) * size]


def drawing(work: Workload, arrays: Case) -> Callable[[Key, str, Any], Arrays]:
    """A function of a key, a loss and a batch: what the loss draws, in the shapes that the case has."""
    end = len(arrays["constants/signal"]) if work.model == "ddpm" else 0

    def one(key: Key, name: str, shape: tuple[int, ...], x: Any) -> Any:
        if name == "t":
            return random.randint(key, shape, 1, end)
        return (
            jnp.float32(random.uniform(key, shape) < x)
            if name == "bits"
            else random.normal(key, shape)
        )

    def draw(key: Key, objective: str, x: Any) -> Arrays:
        drawn = part(arrays, f"draws/{objective}")
        keys = random.split(key, len(drawn))
        return {k: one(key, k, a.shape, x) for key, (k, a) in zip(keys, drawn.items(), strict=True)}

    return draw


def start(p: Arrays) -> Arrays:
    """Adam's moments and the average, each with buffers of its own."""
    mean, square = ({k: jnp.zeros_like(a) for k, a in p.items()} for _ in range(2))
    average = jax.tree.map(jnp.copy, p)
    return {"mean": mean, "square": square, "average": average, "count": jnp.zeros(())}


def adam(
    clip: float, decay: float, game: bool, p: Arrays, gradients: Arrays, moments: Arrays
) -> tuple[Arrays, Arrays]:
    """Clipping, Adam, and the average; as tinygen does it."""
    b1, b2 = (0.5, 0.999) if game else (0.9, 0.999)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradients.values()))
    scale = jnp.minimum(1.0, clip / norm)
    count = moments["count"] + 1
    size, root = RATE / (1 - b1**count), lax.rsqrt(1 - b2**count)
    new: Arrays = {"p": {}, "mean": {}, "square": {}, "average": {}}
    for k, g in gradients.items():
        g = scale * g
        mean = b1 * moments["mean"][k] + (1 - b1) * g
        square = b2 * moments["square"][k] + (1 - b2) * g**2
        new["mean"][k], new["square"][k] = mean, square
        new["p"][k] = p[k] - size * mean / (root * jnp.sqrt(square) + 1e-8)
        if decay:
            average = moments["average"][k]
            new["average"][k] = average + (1 - decay) * (new["p"][k] - average)
    return new.pop("p"), {**new, "count": count}


# -- sampling, operations --------------------------------------------------------------------------
def sampling(work: Workload, arrays: Case, p: Arrays) -> Opened:
    last, bounded = len(arrays["constants/signal"]) - 1, "shift" not in p

    def reverse(p: Arrays, x: Any, t: Any, z: Any) -> Any:
        """x_{t-1} from x_t: t a number, z standard normals."""
        from_x, from_output, low, high, on_x0, on_x, sigma = p["reverse"][t]
        x0 = jnp.clip(from_x * x + from_output * denoiser(p, x, t[None]), low, high)
        return on_x0 * x0 + on_x * x + sigma * z

    @jax.jit
    def sample(p: Arrays, key: Key) -> Any:
        def step(i: Any, x: Any) -> Any:
            return reverse(p, x, last - i, random.normal(random.fold_in(key, i), x.shape))

        x = random.normal(random.fold_in(key, last), (work.batch, work.features))
        x = lax.fori_loop(0, last, step, x)
        return 0.5 * (x + 1) if bounded else x * p["scale"] + p["shift"]

    def results() -> Case:
        times = {int(name.split("/")[0]): z for name, z in part(arrays, "draws").items()}
        one = jax.jit(reverse)
        return {
            f"x/{t}": np.array(one(p, arrays["batch"], jnp.int32(t), z)) for t, z in times.items()
        }

    def run(tick: Tick) -> None:
        x, key = None, key_of(0)
        while True:
            tick(partial(jax.block_until_ready, x))
            x = sample(p, key)

    return Opened(results, run)


def chain(work: Workload, arrays: Case) -> Opened:
    seed = jnp.ones(work.batch)

    @jax.jit
    def step(x: Any, y: Any) -> tuple[Any, Any, Any]:
        z, pull = jax.vjp(partial(applied, jnp, work.model), x, y)
        return z, *pull(seed)

    x, y = (jnp.array(arrays[name]) for name in "xy")

    def results() -> Case:
        return dict(zip(("value", "of x", "of y"), map(np.array, step(x, y)), strict=True))

    def run(tick: Tick) -> None:
        out = None
        while True:
            tick(partial(jax.block_until_ready, out))
            out = step(x, y)

    return Opened(results, run)
