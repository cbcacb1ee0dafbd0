"""The diffusion model: training, sampling, conditions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import inf, log, sqrt
from typing import Any, ClassVar

import numpy as np

from tinygen import kernels, ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of, to_device
from tinygen.errors import unknown, whole
from tinygen.models.diffusion.network import Denoiser
from tinygen.models.diffusion.samplers import SAMPLERS, Network, Sampler
from tinygen.models.diffusion.schedule import SCHEDULES, NoiseSchedule, Tables
from tinygen.models.model import Model, choose, count_of
from tinygen.models.rows import by_blocks
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import History, Settings

__all__ = ["DDPM", "TARGETS", "WEIGHTS"]

Array = np.ndarray[Any, Any]
MANY = 256  # features: with more, a network of the usual width is narrower than the data
OF_FEW = {"schedule": "cosine", "predict": "velocity", "width": 256}  # defaults, and those of many:
OF_MANY = {"schedule": "log-normal", "predict": "data", "width": 512}
MOST = 100_000  # diffusion steps T
FEW_STEPS = 25  # of DPM-Solver++: images as good as the chain's, but shapes in the plane suffer
DROPPED = 0.1  # of the labels in training, so that the network also knows x without one
LEARNED = 1e-3  # weight of the bound's term for a learned variance (Nichol & Dhariwal 2021, eq. 16)

# -- what the network predicts -------------------------------------------------------------------
Target = Callable[[Any, Any], tuple[Any, Any]]
"""From the levels a = sqrt(abar_t), s = sqrt(1 - abar_t) of x_t = a x_0 + s ε to the pair (u, v) of a
target u x_0 + v ε. The estimate of x_0 follows: (v x_t - s output) / (a v - s u)."""

TARGETS: dict[str, Target] = {
    "noise": lambda a, s: (0.0, 1.0),
    "data": lambda a, s: (1.0, 0.0),
    "velocity": lambda a, s: (-s, a),
}


# -- what an error weighs ------------------------------------------------------------------------
Weight = Callable[[Any], Any]
"""From the ratio of signal to noise to the weight of the squared error of x_0."""

WEIGHTS: dict[str, Weight | None] = {
    "simple": None,  # 1 for the error of the target itself
    "snr": lambda snr: snr,  # of ε, whatever the target: L_simple (Ho et al. 2020, eq. 14)
    "min-snr": lambda snr: np.minimum(snr, 5.0),  # Hang et al. 2023
}


class DDPM(Model):
    """A chain x_T ~ N(0, I), ..., x_0 whose steps undo the addition of noise.

    steps: T. schedule: 'linear', 'cosine', 'sigmoid', 'log-normal', or a NoiseSchedule, which has a T
        of its own; None: 'cosine' up to 256 features, 'log-normal' above.
    predict: what the network puts out: 'noise' (ε, as printed), 'data' (x_0), 'velocity' (Salimans
        & Ho 2022), or a function like those of TARGETS; None: 'velocity' up to 256 features, 'data'
        above, where a network cannot carry the noise of every feature to its output, which the
        others ask of it. With 'noise' take the linear schedule: at the cosine's last steps abar is
        so small that errors in ε grow 30-fold.
    weight: of the squared error: 'simple' (1 for the target itself), 'snr', 'min-snr', or a function
        like those of WEIGHTS.
    variance: of a step of the sampler 'ddpm', 'large' or 'small' (see NoiseSchedule.variance),
        'learned' between the two (Nichol & Dhariwal 2021, eq. 15), or the numbers σ_0²..σ_T².
    classes: the number of labels of a class-conditional model; 0 for none.
    width, blocks: of the network (`Denoiser`); None is 256, or 512 for more than 256 features.
    Bounded data are mapped to [-1, 1], and the estimate of x_0 is clipped to that in sampling. If
    the training data are grey levels k/(levels - 1), so are samples: the decoder p(x_0 given x_1) is
    over levels (§3.3), and the last step takes its most probable one.
    """

    defaults: ClassVar[Settings] = Settings(steps=6000, ema_decay=0.999)
    _labels: Any = None  # of the rows that `fit` was given

    def __init__(
        self,
        features: int,
        *,
        steps: int = 1000,
        schedule: str | NoiseSchedule | None = None,
        predict: str | Target | None = None,
        weight: str | Weight = "simple",
        variance: str | Sequence[float] = "small",
        classes: int = 0,
        width: int | None = None,
        blocks: int = 3,
        bounded: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(features, bounded)
        usual = OF_MANY if features > MANY else OF_FEW
        given: dict[str, Any] = {"schedule": schedule, "predict": predict, "width": width}
        for name, value in usual.items():
            if given[name] is None:
                given[name] = value
                self.chosen(name, value)
        schedule, predict, width = (given[name] for name in usual)
        make = choose("schedule", schedule, SCHEDULES)
        if not isinstance(make, NoiseSchedule):
            make = make(whole("the number of diffusion steps T", steps, 1, MOST))
        self.schedule = make
        if self.schedule.abar[-1] > 0.01:
            warnings.warn(
                f"abar_T = {self.schedule.abar[-1]:.3g}: x_T keeps some of the data, but sampling "
                "starts from pure noise; choose larger β or a larger T",
                stacklevel=2,
            )
        choose("weight", weight, WEIGHTS)  # ValueError if there is none
        self.predict, self.weight, self.variance = predict, weight, variance
        self.tables = Tables()
        self._check_target()
        self._check_variance()
        self.classes = whole("classes", classes, 0)
        width, blocks = whole("width", width), whole("blocks", blocks)
        outputs = 2 * features if self.variance == "learned" else features
        rng = Generator(seed).child("weights")
        if bounded:
            self.levels = tensor(np.zeros((), np.float32))  # of the data; 0: they are not levels
        skip = self.predict == "data"
        self.cuts = bounded and skip  # outputs are x_0, and those beyond its range are at its end
        self.network = Denoiser(features, outputs, width, blocks, self.classes, skip, rng=rng)

    def _check_target(self) -> None:
        a, s = np.sqrt(self.schedule.abar[1:]), np.sqrt(1 - self.schedule.abar[1:])
        u, v = self.target(a, s)
        if not (abs(a * v - s * u) > 0).all():
            raise ValueError("nothing follows for x_0 from a target that is a multiple of x_t")

    def _check_variance(self) -> None:
        if isinstance(self.variance, str):
            if self.variance not in ("large", "small", "learned"):
                raise unknown("variance", self.variance, ("large", "small", "learned"))
            if self.variance == "learned" and self.schedule.steps < 2:
                raise ValueError("a learned variance lies between two that are equal at T = 1")
            return
        given = np.asarray(self.variance, np.float64)
        if given.shape != (self.schedule.steps + 1,) or not ((given >= 0) & (given < inf)).all():
            raise ValueError(
                f"the variances σ_0²..σ_T² are {self.schedule.steps + 1} finite numbers from 0, not "
                f"{given}"
            )
        self.variance = given.tolist()
        self.chosen("variance", self.variance)  # which a file can hold

    def normalise(self, x: Any) -> Any:
        """Bounded data to [-1, 1], others to mean 0 and standard deviation 1."""
        return 2.0 * x - 1.0 if self.bounded else super().normalise(x)

    def denormalise(self, x: Any) -> Any:
        """The inverse of `normalise`."""
        return 0.5 * (x + 1.0) if self.bounded else super().denormalise(x)

    @classmethod
    def weights(cls, config: Mapping[str, Any]) -> int:
        """See `Model.weights`."""
        sizes = (whole("a size", config[name]) for name in ("features", "width", "blocks"))
        features, width, blocks = sizes
        return width * (features + 2 * width * blocks) + whole("classes", config["classes"], 0)

    # -- training --------------------------------------------------------------------------------
    def fit(self, x: Any, *, labels: Any = None, **options: Any) -> History:
        """Train on the rows of x; with `labels` (n,) in 0..classes-1 for a class-conditional model.

        See `Model.fit`. ValueError: labels that do not fit, or that are missing.
        """
        if (labels is not None) != bool(self.classes):
            raise ValueError(
                "a class-conditional model (classes=...) is trained with labels, another without"
            )
        self._labels = labels
        try:
            return super().fit(x, **options)
        finally:
            self._labels = None

    def prepare(self, x: Any) -> Array:
        """See `Model.prepare`; the labels, if there are any, become a last column of the rows."""
        x = super().prepare(x)
        if self.bounded:
            self.levels.data[...] = grey_levels(to_device(x[:1000], "cpu"))
        if self._labels is None:
            return x
        labels = self.check_labels(self._labels, len(x))
        m = namespace_of(x)
        present = set(to_device(m.unique(labels), "cpu").tolist())
        if missing := sorted(set(range(self.classes)) - present):
            warnings.warn(f"no row to learn the labels {missing} from", stacklevel=4)
        return with_labels(x, labels)

    def check_labels(self, labels: Any, n: int) -> Array:
        """Labels (n,), or one for all rows, as int64 on the model's device; ValueError names a bad one."""
        if not self.classes:
            raise ValueError("labels are for a model with classes")
        labels = array_on(self.device, labels, "the labels", "the model")
        if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)):
            raise ValueError(
                f"labels are {n} whole numbers, not {labels.dtype} of shape {labels.shape}"
            )
        if labels.size and not (labels.min() >= 0 and labels.max() < self.classes):
            raise ValueError(
                f"labels {int(labels.min())}..{int(labels.max())} for {self.classes} classes"
            )
        m = namespace_of(labels)
        return m.ascontiguousarray(m.broadcast_to(labels, (n,)), np.int64)

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """Algorithm 1 of the paper (2 of the handout): the mean squared error of the prediction.

        With predict='noise', or weight='snr', it is L_simple (eq. 14), per element. L_simple drops
        the weights β²/(2σ²α(1 - abar)) of eq. 12: it is not the variational bound, for which see
        `variational_bound`. A learned variance adds its part of the bound (`bound`, in nats a
        feature, of one random step times T).
        """
        rng = as_generator(rng)
        m = namespace_of(x)
        x, labels = self._take_labels(x, rng)
        x = m.ascontiguousarray(self.normalise(x))
        t = rng.integers(1, self.schedule.steps + 1, len(x), device=m.device)
        a, s = self.schedule.levels(t)
        draw = rng.next_draw()
        xt, _ = kernels.noise_step(m, x, a, s, draw)
        output = self.network(xt, t, *labels)
        if self.variance != "learned":
            return {"loss": self._error(output, x, t, draw)}
        prediction, between = ops.split(output, 2, axis=1)
        bound = self._bound_of_variance(prediction.data, between, x, xt, t)
        return {"loss": self._error(prediction, x, t, draw) + LEARNED * bound, "bound": bound}

    def _take_labels(self, x: Array, rng: Generator) -> tuple[Array, tuple[Array, ...]]:
        """The rows without their last column, and that as labels, a tenth of them dropped."""
        if not self.classes:
            return x, ()
        m = namespace_of(x)
        none = m.full(len(x), self.classes)
        if x.shape[1] == self.features:  # held-out rows come without labels
            return x, (none,)
        dropped = rng.bernoulli(DROPPED, len(x), device=m.device) > 0
        return x[:, :-1], (m.where(dropped, none, x[:, -1].astype(np.int64)),)

    def _error(self, output: Tensor, x: Array, t: Any, draw: kernels.Draw) -> Tensor:
        """The weighted mean squared error of the target: the weights' roots scale both sides.

        An output that is x_0 itself counts as sampling takes it, at the end of the data's range if
        it lies beyond, while the gradient passes as if it did not: for an error e after the cut, the
        gradient is e, that of a convex loss whose minimum is still the mean of x_0 given x_t. So a
        background can be exactly black, where squared errors would have it a little grey.
        """
        m = namespace_of(x)
        if self.cuts:
            output = output + (m.clip(output.data, -1.0, 1.0) - output.data)
        a, s = self.schedule.levels(t)
        on_data, on_noise = (_by_row(m, c, a) for c in self.target(a, s))
        if choose("weight", self.weight, WEIGHTS) is not None:
            scale = self.tables.at(t, "weight", self._root_weights)
            output = output * scale[:, None]
            on_data = None if on_data is None else on_data * scale
            on_noise = None if on_noise is None else on_noise * scale
        return ops.noise_error(output, x, on_data, on_noise, draw)

    def _root_weights(self) -> Array:
        """By time, the root of the weight of the target's error: that of x_0 is s/(a v - s u) of it."""
        a, s = np.sqrt(self.schedule.abar), np.sqrt(1 - self.schedule.abar)
        u, v = self.target(a, s)
        with np.errstate(divide="ignore", invalid="ignore"):
            roots = np.sqrt(choose("weight", self.weight, WEIGHTS)(self.schedule.snr))
            roots = roots * np.abs(s / (a * v - s * u))
        roots[0] = 0.0  # no loss is asked for at t = 0
        return np.asarray(roots)

    def _bound_of_variance(
        self, output: Array, between: Tensor, x: Array, xt: Array, t: Any
    ) -> Tensor:
        """T · KL(q(x_{t-1} | x_t, x_0) ‖ p) a feature, as a function of the variance alone; at t = 1
        the density of x_0 in its place."""
        schedule = self.schedule
        a, s = schedule.levels(t)
        u, v = (c if isinstance(c, (int, float)) else c[:, None] for c in self.target(a, s))
        a, s = a[:, None], s[:, None]
        x0 = (v * xt - s * output) / (a * v - s * u)
        if self.bounded:
            x0 = namespace_of(x).clip(x0, -1.0, 1.0)  # as in sampling
        on_x0 = self.tables.at(t, "on x0", self._posterior_of_x0)[:, None]
        lower = self.tables.at(t, "log small", lambda: self._log_limits()[0])[:, None]
        upper = self.tables.at(t, "log large", lambda: self._log_limits()[1])[:, None]
        log_var = _between(lower, upper, between)
        of_q = self.tables.at(t, "of q", lambda: self._by_time("small"))[:, None]
        # Under q, the mean of (x_{t-1} - mean of p)² is its variance and the means' distance squared.
        spread = of_q + (on_x0 * (x - x0)) ** 2
        surplus = 0.5 * (log_var + spread * ops.exp(-log_var))
        return schedule.steps * ops.mean(
            surplus - self.tables.at(t, "entropy", self._entropy)[:, None]
        )

    def _posterior_of_x0(self) -> Array:
        return np.append(0.0, self.schedule.posterior_mean(self._times())[0])

    def _entropy(self) -> Array:
        """That of q(x_{t-1} | x_t, x_0) less a constant that cancels; of the density at t = 1 none."""
        small = self._by_time("small")
        return np.array([0.0, -0.5 * np.log(2 * np.pi), *(0.5 * (1 + np.log(small[2:])))])

    def _by_time(self, kind: str) -> Array:
        return np.append(0.0, self.schedule.variance(kind, self._times()))

    def _times(self) -> Array:
        return np.arange(1, self.schedule.steps + 1)

    # -- what the network says -------------------------------------------------------------------
    def target(self, a: Any, s: Any) -> tuple[Any, Any]:
        """(u, v) of the target u x_0 + v ε at levels a of signal and s of noise."""
        return choose("prediction", self.predict, TARGETS)(a, s)

    def _log_limits(self) -> tuple[Array, Array]:
        """By time, the logarithms of the small and the large variance; the first small one, which
        is 0, is replaced by the second."""
        small, large = self._by_time("small"), self._by_time("large")
        small[:2] = small[min(2, len(small) - 1)] or large[1]  # T = 1 has no second one
        large[0] = large[1]
        return np.log(small), np.log(large)

    def log_variance(self, output: Array, t: int) -> Any:
        """log σ² of p(x_{t-1} | x_t): a number, or (n, features) if it is learned. At t = 1, that of
        the decoder p(x_0 | x_1), where the small variance, which is 0, is the second one."""
        small, large = self._log_limits()
        if self.variance == "learned":
            return _between(small[t], large[t], output[:, self.features :])
        if isinstance(self.variance, str):
            return float(small[t] if self.variance == "small" else large[t])
        if not self.variance[t] > 0:
            raise ValueError(f"σ_{t}² = 0: the bound is finite for variances above 0 alone")
        return log(self.variance[t])

    def estimate(self, t: int) -> tuple[float, float, float, float]:
        """What x_t and the output contribute to the estimate of x_0, and its limits."""
        a, s = float(np.sqrt(self.schedule.abar[t])), float(np.sqrt(1 - self.schedule.abar[t]))
        u, v = self.target(a, s)
        limit = 1.0 if self.bounded else inf
        return v / (a * v - s * u), -s / (a * v - s * u), -limit, limit

    def prediction(self, output: Array) -> Array:
        """The output (n, features) without what it says of a learned variance."""
        if self.variance != "learned":
            return output
        return namespace_of(output).ascontiguousarray(output[:, : self.features])

    def estimated(self, xt: Array, output: Array, t: int) -> Array:
        """The estimate of x_0 (n, features) from x_t and the output, clipped if the data are bounded."""
        numbers = kernels.Denoising(*self.estimate(t), 1.0, 0.0, 0.0)
        m, prediction = namespace_of(xt), self.prediction(output)
        return kernels.denoise_step(m, xt, prediction, numbers, kernels.NO_DRAW)

    @no_grad()
    def predict_x0(self, xt: Array, t: int) -> Array:
        """The network's estimate of x_0 from x_t (n, features), in normalised units."""
        return self.estimated(xt, self.guided()(xt, t), t)

    def guided(self, labels: Any = None, guidance: float = 1.0) -> Network:
        """The network as a function of (x, t), for labels (n,) if it knows any.

        guidance w: (1 - w) · output without a label + w · output with it (Ho & Salimans 2022, with
        w = 1 + theirs): 0 ignores the labels, 1 is the conditional model, more sharpens it. A
        learned variance stays that with the label, for w = 0 without.
        """

        def network(x: Array, t: int, labels: Any) -> Array:
            m = namespace_of(x)
            time, none = m.full(1, t), m.full(1, self.classes)
            if not self.classes:
                return by_blocks(lambda x: self.network(x, time).data, x)
            if labels is None:
                return by_blocks(lambda x: self.network(x, time, none).data, x)
            return by_blocks(lambda x, labels: self.network(x, time, labels).data, x, labels)

        def between(x: Array, t: int) -> Array:
            output, plain = (self._cut(network(x, t, known)) for known in (labels, None))
            further = (guidance - 1) * (output - plain)
            further[:, self.features :] = 0
            return output + further

        if guidance == 0:
            labels = None
        return between if guidance not in (0, 1) else lambda x, t: network(x, t, labels)

    def _cut(self, output: Array) -> Array:
        """The output, in place, with what it says of x_0 in the range of the data."""
        if self.cuts:
            prediction = output[:, : self.features]
            namespace_of(output).clip(prediction, -1.0, 1.0, out=prediction)
        return output

    # -- sampling --------------------------------------------------------------------------------
    def denoise_step(
        self, xt: Array, output: Array, t: int, s: int, rng: Rng, out: Array | None = None
    ) -> Array:
        """x_s from x_t and the network's output: a draw from N(posterior mean at the estimated x_0, σ²).

        From t to t - 1 with ε in the place of x_0 the mean is
        (x_t - (1 - α_t)/sqrt(1 - abar_t) ε) / sqrt(α_t) (algorithm 2 of the paper; the handout's
        algorithm 3 prints abar for α). No noise at s = 0. `out`, which may be xt, receives the result.
        """
        rng = as_generator(rng)
        m, numbers = namespace_of(xt), self.reverse_step(t, s)
        draw = rng.next_draw() if numbers.sigma else kernels.NO_DRAW
        y = kernels.denoise_step(m, xt, self.prediction(output), numbers, draw, out)
        if self.variance == "learned" and s:
            small, large = (log(self.schedule.variance(kind, t, s)) for kind in ("small", "large"))
            noise = rng.normal(y.shape, device=m.device)
            y += m.exp(0.5 * _between(small, large, output[:, self.features :])) * noise
        return y

    def reverse_step(self, t: int, s: int | None = None) -> kernels.Denoising:
        """The numbers of the step from x_t to x_s, s = t - 1 for None: the posterior mean at the
        estimate of x_0 (clipped if the data are bounded), and σ; 0 to s = 0, or if it is learned."""
        s = t - 1 if s is None else s
        if self.variance == "learned" or s == 0:
            sigma = 0.0
        elif isinstance(self.variance, str):
            sigma = float(self.schedule.variance(self.variance, t, s)) ** 0.5
        elif s == t - 1:
            sigma = self.variance[t] ** 0.5
        else:
            raise ValueError(
                f"variances given for each t do not say that of a step from {t} to {s}"
            )
        on_x0, on_xt = map(float, self.schedule.posterior_mean(t, s))
        return kernels.Denoising(*self.estimate(t), on_x0, on_xt, sigma)

    @no_grad()
    def sample(
        self,
        n: int,
        *,
        sampler: str | Sampler | None = None,
        steps: int | Sequence[int] | None = None,
        labels: Any = None,
        guidance: float = 1.0,
        known: Any = None,
        mask: Any = None,
        resample: int = 10,
        rng: Rng | None = None,
    ) -> Array:
        """n rows (n, features), from x_T ~ N(0, I) through the times of `steps` down to x_0.

        sampler: 'ddpm', 'ddim', 'dpm-solver', or a function like those of samplers.py; None is 'ddpm',
            but for bounded data, unless inpainted, 'dpm-solver' in 25 steps.
        steps: how many times, evenly spaced; or the times themselves; None for all T.
        labels, guidance: for a class-conditional model, see `guided`.
        known, mask: inpainting: data (features,) or (n, features), and the truth values (of the same
            shape) of what is kept of them: at each time it is replaced by a noised copy
            (Lugmayr et al. 2022, eq. 8), and in the result by itself.
        resample: how often inpainting takes each step, from its end noised again (algorithm 1). The
            noised copy knows nothing of the rest; so the rest follows its law given what is kept
            only for many of small steps, and for 1 depends on it too little.
        ValueError: times, labels, a mask that do not fit.
        """
        rng = as_generator(rng)
        n = count_of(n)
        if labels is not None:
            labels = self.check_labels(labels, n)
        elif guidance != 1:
            raise ValueError("guidance is towards labels: give some")
        if not abs(guidance) < inf:
            raise ValueError(f"guidance is a finite number, not {guidance}")
        if sampler is None:
            quick = self.bounded and known is None
            sampler = "dpm-solver" if quick else "ddpm"
            if quick and steps is None:
                steps = min(FEW_STEPS, self.schedule.steps)
        pairs = self.schedule.pairs(steps)
        kept = self._kept(known, mask, n)
        step = choose("sampler", sampler, SAMPLERS)(self, self.guided(labels, guidance), rng)
        x = rng.normal((n, self.features), device=self.device)
        if kept is None:
            for t, s in pairs:
                x = step(x, t, s)
            return self._on_levels(self.denormalise(x))
        (known, mask), where = kept, namespace_of(x).where
        data = self.normalise(known)
        for t, s in pairs:
            for again in range(whole("resample", resample)):
                if again:
                    x = self._noised(x, s, t, rng)
                x = step(where(mask, self._noised(data, 0, t, rng), x), t, s)
        return where(mask, known, self._on_levels(self.denormalise(x)))

    def _noised(self, x: Array, s: int, t: int, rng: Generator) -> Array:
        """A draw of q(x_t | x_s), s < t."""
        share = self.schedule.abar[t] / self.schedule.abar[s]
        return sqrt(share) * x + sqrt(1 - share) * rng.normal(x.shape, device=self.device)

    def _on_levels(self, x: Array) -> Array:
        steps = float(self.levels.data) - 1 if self.bounded else 0.0
        return namespace_of(x).rint(x * steps) / np.float32(steps) if steps > 0 else x

    def _kept(self, known: Any, mask: Any, n: int) -> tuple[Array, Array] | None:
        if known is None and mask is None:
            return None
        if known is None or mask is None:
            raise ValueError("inpainting takes both the known data and the mask of what is kept")
        known = array_on(self.device, known, "known", "the model")
        mask = array_on(self.device, mask, "mask", "the model")
        for what, array in (("known", known), ("mask", mask)):
            if array.shape not in ((self.features,), (n, self.features)):
                raise ValueError(
                    f"{what} of shape {array.shape} for samples ({n}, {self.features})"
                )
        if mask.dtype != bool:
            raise ValueError(f"a mask holds truth values, not {mask.dtype}")
        m = namespace_of(known)
        mask = m.broadcast_to(mask, (n, self.features))
        return self.check(m.where(mask, known, 0.0)), mask  # what is not kept may be anything


def with_labels(x: Array, labels: Array) -> Array:
    """Rows with their labels as a last column: what a class-conditional model is trained on."""
    return namespace_of(x).concatenate([x, labels[:, None].astype(np.float32)], axis=1)


def grey_levels(x: Array) -> int:
    """How many equally spaced levels from 0 to 1 the values of x are: at most 256, else 0."""
    values = np.unique(x)
    if not 2 <= len(values) <= 256:
        return 0
    steps = round(1 / float(np.diff(values).min()))
    return (
        steps + 1
        if steps < 256 and np.abs(values * steps - np.rint(values * steps)).max() < 1e-3
        else 0
    )


def _by_row(m: Any, coefficient: Any, levels: Any) -> Any:
    """A coefficient of a target as an array (rows,) of float32, and None for 0."""
    if isinstance(coefficient, (int, float)):
        return m.full_like(levels, coefficient) if coefficient else None
    return coefficient


def _between(lower: Any, upper: Any, share: Any) -> Any:
    """A learned log variance (Nichol & Dhariwal 2021, eq. 15): -1 is the lower limit, 1 the upper."""
    return lower + (upper - lower) * 0.5 * (share + 1.0)
