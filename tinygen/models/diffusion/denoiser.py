"""The denoiser D(x_t, t): what all that uses a trained model asks it for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from tinygen import kernels, ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import no_grad
from tinygen.backend import is_gpu_array, namespace_of
from tinygen.models.diffusion.network import ResidualMLP
from tinygen.models.diffusion.schedule import NoiseSchedule
from tinygen.models.diffusion.targets import Target, solve
from tinygen.models.diffusion.variance import Variance
from tinygen.models.rows import BLOCK, by_blocks
from tinygen.random import Generator

__all__ = ["Denoiser"]

Array = Any

TIMES = 256  # of which the network's conditions are computed at once


class Diffusion(Protocol):
    """What the denoiser needs of a model; see DDPM."""

    features: int
    classes: int
    bounded: bool
    clips_output: bool
    schedule: NoiseSchedule
    target: Target
    variance: Variance
    network: Any

    @property
    def compiled_output(self) -> Any: ...

    @property
    def compiled_step(self) -> Any: ...


class Denoiser:
    """D(x_t, t), the estimate of x_0 at rows x_t (n, features) and one time t, in normalised units.

    It is that of one condition: no label, or one for each row. Estimates of bounded data are clipped to
    their range.
    guidance w: the output is (1 - w) · output without a label + w · output with it (Ho & Salimans 2022,
        whose w is less by 1). 0 ignores the labels, 1 is the conditional model, and more sharpens it.
        A learned variance stays the one with the label, or for w = 0 the one without.
    compiled: the network's output is computed by a program (`tinygen.compile`), which the model keeps; on
        the GPU the whole step is, so that it takes two launches.
    """

    def __init__(
        self, model: Diffusion, labels: Any = None, guidance: float = 1.0, compiled: bool = False
    ) -> None:
        self.model, self.schedule, self.variance = model, model.schedule, model.variance
        self.labels = None if guidance == 0 else labels
        self.further = None if guidance in (0, 1) else guidance - 1
        self._output: Any = model.compiled_output if compiled else guided_output
        self._compiled = compiled
        self._how: dict[str, Any] = {
            "classes": model.classes,
            "clips": model.clips_output,
            "features": model.features if model.variance.learned else None,
        }
        self._place: dict[int, int] = {}  # of a time among those to come
        self._conditions: dict[int, list[Array]] = {}

    def prepare(self, times: Sequence[int]) -> None:
        """Say which times are to come: what the network does of them alone is computed for many at once.

        This is done without a label only, and for a `ResidualMLP`.
        """
        unlabelled = self.labels is None or self.further is not None
        if unlabelled and type(self.model.network).__call__ is ResidualMLP.__call__:
            self._place, self._conditions = {t: i for i, t in enumerate(times)}, {}

    @no_grad()
    def __call__(self, x: Array, t: int) -> Array:
        """The estimate of x_0 (n, features) from rows x_t."""
        return self.step(x, t, on_x0=1.0, on_xt=0.0)

    @no_grad()
    def step(
        self,
        x: Array,
        t: int,
        on_x0: float,
        on_xt: float,
        sigma: float | Callable[[Array], Array] = 0.0,
        rng: Generator | None = None,
        out: Array | None = None,
    ) -> Array:
        """on_x0 · D(x_t, t) + on_xt · x_t + sigma · z with z ~ N(0, I): one step of any sampler.

        One kernel computes it from x_t and the output. sigma: a number, or for a learned variance a
        function of what the network says of it. rng: needed if sigma is not 0. The result may be in
        `out`, which may be x itself.
        """
        noise = 0.0 if callable(sigma) else sigma
        if self._compiled and is_gpu_array(x) and len(x) <= BLOCK and not callable(sigma):
            return self._step_at_once(x, t, on_x0, on_xt, noise, rng)
        output = self.output(x, t)
        draw = kernels.NO_DRAW if rng is None or not noise else rng.next_draw()
        y = self._move(x, output, t, on_x0, on_xt, noise, draw, out)
        if callable(sigma) and rng is not None:
            std = sigma(output[:, self.model.features :])
            y += std * rng.normal(y.shape, device=namespace_of(y).device)
        return y

    def _step_at_once(
        self, x: Array, t: int, on_x0: float, on_xt: float, sigma: float, rng: Generator | None
    ) -> Array:
        """A step as one program, whose numbers change from time to time."""
        m = namespace_of(x)
        step, stream = self.model.compiled_step
        if rng is not None:
            stream.state = rng.state
        y = step(
            self.model.network, x, m.full(1, t), self._conditions_at(t, m), self.labels, self.further,
            stream, *self._numbers(t, on_x0, on_xt, sigma), **self._how,
        )  # fmt: skip
        if rng is not None and sigma:
            rng.state = stream.state
        return y

    def _numbers(self, t: int, on_x0: float, on_xt: float, sigma: float) -> kernels.Denoising:
        """Those of the kernel for a step from t."""
        (from_xt, from_output), _ = solve(self.model.target, *self.schedule.at(t))
        limit = 1.0 if self.model.bounded else inf
        return kernels.Denoising(from_xt, from_output, -limit, limit, on_x0, on_xt, sigma)

    @no_grad()
    def with_log_variance(self, x: Array, t: int) -> tuple[Array, Any]:
        """The estimate of x_0, and log σ² of the step from t to t - 1: a number, or (n, features)."""
        output = self.output(x, t)
        x0 = self._move(x, output, t, 1.0, 0.0, 0.0, kernels.NO_DRAW, None)
        return x0, self.variance.log(t, output[:, self.model.features :])

    def noise(self, x: Tensor, t: float) -> Tensor:
        """The estimate of ε at rows x_t, differentiable in x. The time t may lie between two.

        The estimate of x_0 that goes with it is not clipped, unless the output itself is.
        """
        _, (from_xt, from_output) = solve(self.model.target, *self.schedule.at(t))
        time = namespace_of(x.data).full(1, t)
        further, network = self.further, self.model.network
        output = guided_output(network, x, time, None, self.labels, further, **self._how)
        output = output[:, : self.model.features]
        return from_xt * x + from_output * output

    def output(self, x: Array, t: int) -> Array:
        """The network's output (n, outputs) with guidance, a block of rows at a time."""
        network, time = self.model.network, namespace_of(x).full(1, t)
        conditions = self._conditions_at(t, namespace_of(x))

        def of_block(x: Array, labels: Array | None = None) -> Array:
            y = self._output(network, x, time, conditions, labels, self.further, **self._how)
            return y.data

        return by_blocks(of_block, x, *([] if self.labels is None else [self.labels]))

    def _conditions_at(self, t: int, m: Any) -> list[Array] | None:
        """The network's conditions (1, ·) at a time that was prepared, without a label."""
        if t in self._place and t not in self._conditions:
            times = list(self._place)[self._place[t] :][:TIMES]
            no_label = _no_label(self.model.classes, m, len(times))
            rows = self.model.network.conditions(m.asarray(times), *no_label)
            self._conditions = {s: [r.data[i : i + 1] for r in rows] for i, s in enumerate(times)}
        return self._conditions.get(t)

    def _move(
        self,
        x: Array,
        output: Array,
        t: int,
        on_x0: float,
        on_xt: float,
        sigma: float,
        draw: kernels.Draw,
        out: Array | None,
    ) -> Array:
        """The kernel: the estimate of x_0 from x_t and the output, clipped, and the step with it."""
        m = namespace_of(x)
        prediction = m.ascontiguousarray(output[:, : self.model.features])
        numbers = self._numbers(t, on_x0, on_xt, sigma)
        return kernels.denoise_step(m, x, prediction, numbers, draw, out)


def guided_output(
    network: Any,
    x: Any,
    time: Array,
    conditions: list[Array] | None,
    labels: Array | None,
    further: float | None,
    *,
    classes: int,
    clips: bool,
    features: int | None,
) -> Tensor:
    """The network's output for rows x at the time (1,), with labels (n,) or None.

    conditions: those of the time without a label, where they are known.
    further: how much further than to the output with labels guidance goes; None for no guidance.
    classes: of the network; the label `classes` means none. clips: to -1..1, what it says of x_0 itself.
    features: how many columns the prediction has; None for all. What the others say of a learned
        variance stays as it is.
    """

    def on_prediction(change: Callable[..., Tensor], *outputs: Tensor) -> Tensor:
        if features is None:
            return change(*outputs)
        changed = change(*(y[:, :features] for y in outputs))
        return ops.concatenate([changed, outputs[0][:, features:]], axis=1)

    def output(labels: Array | None) -> Tensor:
        if labels is None and conditions is not None:
            y = network.given(x, conditions)
        else:
            known = _no_label(classes, namespace_of(time), 1) if labels is None else (labels,)
            y = network(x, time, *known)
        return on_prediction(lambda y: ops.clip(y, -1.0, 1.0), y) if clips else y

    y = output(labels)
    if further is None:
        return y
    return on_prediction(lambda y, plain: y + further * (y - plain), y, output(None))


@no_grad()
def step_at_once(
    network: Any,
    x: Array,
    time: Array,
    conditions: list[Array] | None,
    labels: Array | None,
    further: float | None,
    stream: Generator,
    *numbers: float,
    **how: Any,
) -> Array:
    """The next x from `guided_output` and the numbers of a Denoising: one step of a sampler.

    It claims a draw of the stream, also where sigma is 0.
    """
    m = namespace_of(x)
    output = guided_output(network, x, time, conditions, labels, further, **how).data
    prediction = m.ascontiguousarray(output[:, : how["features"]])
    step = kernels.Denoising(*numbers)
    return kernels.denoise_step(m, x, prediction, step, stream.next_draw())


@no_grad()
def sampled_at_once(
    model: Diffusion, x: Array, labels: Array | None, stream: Generator, sampler: Any, pairs: Any
) -> Array:
    """All steps of a sampler, from x_T to x_0."""
    denoiser = Denoiser(model, labels)
    denoiser.prepare([t for t, _ in pairs])
    y: Array = sampler(denoiser, x, pairs, stream)
    return y


def _no_label(classes: int, m: Any, n: int) -> tuple[Array, ...]:
    """What a network with classes takes as 'no label', n times."""
    return (m.full(n, classes),) if classes else ()
