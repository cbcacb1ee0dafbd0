"""The diffusion model: training, sampling, conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import inf
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from tinygen import kernels, ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of, to_device
from tinygen.compile import compile as compiled
from tinygen.errors import whole
from tinygen.models.diffusion.denoiser import (
    Denoiser,
    guided_output,
    sampled_at_once,
    step_at_once,
)
from tinygen.models.diffusion.network import ResidualMLP
from tinygen.models.diffusion.samplers import SAMPLERS, Sampler, inpaint
from tinygen.models.diffusion.schedule import SCHEDULES, NoiseSchedule, TimeTable
from tinygen.models.diffusion.targets import (
    TARGETS,
    WEIGHTS,
    Target,
    Weight,
    WeightedError,
    check_target,
    solve,
)  # fmt: skip
from tinygen.models.diffusion.variance import LearnedVariance, variance_of
from tinygen.models.model import Model, choose, count_of
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import History, Settings
from tinygen.training.programs import records

__all__ = ["DDPM"]

Array = np.ndarray[Any, Any]

MANY = 256  # features: with more, a network of the usual width is narrower than the data
OF_FEW = {"schedule": "cosine", "predict": "velocity", "width": 256}  # defaults, and those of many:
OF_MANY = {"schedule": "log-normal", "predict": "data", "width": 512}
MAX_T = 100_000
COMPILED_FROM = 500  # steps: from then on sampling gains more than compiling takes
AT_ONCE = 50  # steps that are one program on the GPU; more take long to compile
FEW_STEPS = 25  # of DPM-Solver++: images as good as the chain's, but shapes in the plane suffer
DROPPED = 0.1  # of the labels in training, so that the network also knows x without one
LEARNED = 1e-3  # weight of the bound's term for a learned variance (Nichol & Dhariwal 2021, eq. 16)


class DDPM(Model):
    """A chain x_T ~ N(0, I), ..., x_0 whose steps undo the addition of noise.

    T: how many steps. schedule: 'linear', 'cosine', 'sigmoid', 'log-normal', or a NoiseSchedule, which has
        a T of its own. None is 'cosine' up to 256 features and 'log-normal' above.
    predict: what the network puts out: 'noise' (ε, as printed), 'data' (x_0), 'velocity' (Salimans & Ho
        2022), or a function like those of TARGETS. None is 'velocity' up to 256 features and 'data'
        above: there the network is narrower than x_t, and the noise of all features does not pass it.
        Take 'noise' with the linear schedule: the last abar of the cosine schedule are so small that
        errors in ε grow 30-fold.
    weight: of the squared error: 'simple' (1 for the target itself), 'snr', 'min-snr', or a function
        like those of WEIGHTS.
    variance: of a step of the sampler 'ddpm': 'large' or 'small' (see NoiseSchedule.variance),
        'learned' between the two (Nichol & Dhariwal 2021, eq. 15), or the numbers σ_0²..σ_T².
    classes: the number of labels of a class-conditional model; 0 for none.
    width, blocks: of the network (`ResidualMLP`). None is 256, or 512 for more than 256 features.
    Bounded data are mapped to [-1, 1], and estimates of x_0 are clipped to that in sampling. If the
    training data are grey levels k/(n - 1), so are samples: the decoder p(x_0|x_1) gives each level a
    probability (§3.3), and the last step takes the most probable one.
    """

    defaults: ClassVar[Settings] = Settings(steps=6000, ema_decay=0.999)

    def __init__(
        self,
        features: int,
        *,
        T: int = 1000,
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
        self.schedule = _schedule(schedule, T)
        self.target = choose("prediction", predict, TARGETS)
        check_target(self.target, self.schedule)
        self.error = WeightedError(self.target, choose("weight", weight, WEIGHTS), self.schedule)
        self.variance = variance_of(variance, self.schedule)
        if not isinstance(variance, str):
            self.chosen("variance", np.asarray(variance, np.float64).tolist())
        self.classes = whole("classes", classes, 0)
        self.signal, self.noise = TimeTable(self.schedule.signal), TimeTable(self.schedule.noise)
        if bounded:
            self.grey_levels = tensor(np.zeros((), np.float32))  # of the data; 0: they have none
        self.clips_output = bounded and predict == "data"  # the output is x_0, and in its range
        width, blocks = whole("width", width), whole("blocks", blocks)
        outputs = 2 * features if self.variance.learned else features
        self.network = ResidualMLP(
            features, outputs, width, blocks, self.classes, skip=predict == "data",
            rng=Generator(seed).child("weights"),
        )  # fmt: skip

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
    def fit(self, x: Any, *, labels: Any = None, **options: Any) -> History:  # type: ignore[override]
        """Train on the rows of x; with `labels` (n,) in 0..classes-1 for a class-conditional model.

        See `Model.fit`. ValueError: labels that do not fit, or that are missing.
        """
        if (labels is not None) != bool(self.classes):
            raise ValueError(
                "a class-conditional model (classes=...) is trained with labels, another without"
            )
        return super().fit(x, *([] if labels is None else [labels]), **options)

    def prepare(self, x: Any, labels: Any = None) -> tuple[Array, ...]:
        """See `Model.prepare`; with checked labels (n,) if there are any."""
        (x,) = super().prepare(x)
        if self.bounded:
            self.grey_levels.data[...] = count_grey_levels(to_device(x[:1000], "cpu"))
        if labels is None:
            return (x,)
        labels = self.check_labels(labels, len(x))
        present = set(to_device(namespace_of(x).unique(labels), "cpu").tolist())
        if missing := sorted(set(range(self.classes)) - present):
            warnings.warn(f"no row to learn the labels {missing} from", stacklevel=4)
        return x, labels

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

    def loss(self, x: Array, labels: Array | None = None, *, rng: Rng) -> dict[str, Tensor]:  # type: ignore[override]
        """Algorithm 1 of the paper (2 of the handout): the mean squared error of the prediction.

        With predict='noise', or weight='snr', it is L_simple (eq. 14), a mean over elements. L_simple
        leaves out the weights β²/(2σ²α(1 - abar)) of eq. 12: it is not the variational bound, which is
        `variational_bound`. A learned variance adds its part of the bound (`bound`, in nats a feature:
        one random term times T).
        """
        rng, m = as_generator(rng), namespace_of(x)
        known = self._some_labels(labels, len(x), rng, m)
        x = m.ascontiguousarray(self.normalise(x))
        t = rng.integers(1, self.schedule.T + 1, len(x), device=m.device)
        draw = rng.next_draw()
        xt, _ = kernels.noise_step(m, x, self.signal[t], self.noise[t], draw)
        output = self.network(xt, t, *known)
        if not isinstance(self.variance, LearnedVariance):
            return {"loss": self.error(self._clipped(output), x, t, draw)}
        output, fraction = ops.split(output, 2, axis=1)
        bound = self.variance.bound(fraction, x - self._x0(xt, output.data, t), t)
        loss = self.error(self._clipped(output), x, t, draw) + LEARNED * bound
        return {"loss": loss, "bound": bound}

    def _some_labels(self, labels: Any, n: int, rng: Generator, m: Any) -> tuple[Array, ...]:
        """The labels for the network, a tenth of them replaced by 'none'; held-out rows have none."""
        if not self.classes:
            return ()
        none = m.full(n, self.classes)
        if labels is None:
            return (none,)
        return (m.where(rng.bernoulli(DROPPED, n, device=m.device) > 0, none, labels),)

    def _clipped(self, output: Tensor) -> Tensor:
        """An output that is x_0 of bounded data: clipped as in sampling, but not for the gradient.

        For an error e after the clip the gradient is e. It is that of a convex loss, whose minimum is
        still the mean of x_0 given x_t. So a background can be exactly black, where the squared error
        of the output itself would leave it a little grey.
        """
        if not self.clips_output:
            return output
        m = namespace_of(output.data)
        return output + (m.clip(output.data, -1.0, 1.0) - output.data)

    def _x0(self, xt: Array, output: Array, t: Array) -> Array:
        """The estimate of x_0 at times t (n,), clipped as in sampling if the data are bounded."""
        factors, _ = solve(self.target, self.signal[t], self.noise[t])
        from_xt, from_output = (factor[:, None] for factor in factors)
        x0 = from_xt * xt + from_output * output
        return namespace_of(xt).clip(x0, -1.0, 1.0) if self.bounded else x0

    # -- sampling --------------------------------------------------------------------------------
    @cached_property
    def compiled_output(self) -> Any:
        """The network's output with labels and guidance as programs, kept for all samplings."""
        return compiled(guided_output)  # of the network, not of the model: no cycle

    @cached_property
    def compiled_step(self) -> tuple[Any, Generator]:
        """A step of a sampler as programs, and the stream that they draw from."""
        return compiled(step_at_once), Generator()

    @cached_property
    def compiled_sampling(self) -> tuple[Any, Any, Generator]:
        """All steps of a sampler as programs, what they need of the model, and the stream."""
        names = ("features", "classes", "bounded", "clips_output", "schedule", "target", "variance")
        parts = SimpleNamespace(
            network=self.network, **{name: getattr(self, name) for name in names}
        )
        return compiled(sampled_at_once), parts, Generator()

    def denoiser(
        self, labels: Any = None, guidance: float = 1.0, compiled: bool = False
    ) -> Denoiser:
        """D(x_t, t) for labels (n,), or one for all rows at a time; see `Denoiser`.

        ValueError: guidance without labels, or labels without classes.
        """
        if labels is None and guidance != 1:
            raise ValueError("guidance is towards labels: give some")
        if not abs(guidance) < inf:
            raise ValueError(f"guidance is a finite number, not {guidance}")
        return Denoiser(self, labels, guidance, compiled)

    @no_grad()
    def sample(
        self,
        n: int,
        *,
        sampler: str | Sampler | None = None,
        sampling_steps: int | Sequence[int] | None = None,
        labels: Any = None,
        guidance: float = 1.0,
        known: Any = None,
        mask: Any = None,
        resample: int = 10,
        rng: Rng | None = None,
        seed: int | None = None,
        compile: bool | None = None,
    ) -> Array:
        """n rows (n, features), from x_T ~ N(0, I) by a sampler down to x_0.

        sampler: 'ddpm', 'ddim', 'dpm-solver', or a function like those of samplers.py. None is 'ddpm',
            but 'dpm-solver' in 25 steps for bounded data that are not inpainted.
        sampling_steps: how many times t, evenly spaced; or the times themselves; None for all T.
        labels, guidance: for a class-conditional model, see `Denoiser`.
        known, mask: inpainting (see `inpaint`): data (features,) or (n, features), and the truth values,
            of the same shape, of what is known of them. In the result these are the data themselves.
        resample: how often inpainting takes each step. rng, seed: see `Model.sample`.
        compile: the network as a program (`tinygen.compile`). By default it is done where it gains time:
            on the CPU, for at least COMPILED_FROM steps, and if all parts of the model are tinygen's. On
            the GPU a step is then one graph, and up to AT_ONCE steps together are.
        ValueError: times, labels, a mask that do not fit. CompileError: compile=True, and a network that
        cannot be recorded.
        """
        rng, n = as_generator(rng, seed), count_of(n)
        labels = None if labels is None else self.check_labels(labels, n)
        if sampler is None:
            quick = self.bounded and known is None
            sampler = "dpm-solver" if quick else "ddpm"
            if quick and sampling_steps is None:
                sampling_steps = min(FEW_STEPS, self.schedule.T)
        pairs = self.schedule.pairs(sampling_steps)
        if compile is None:
            long, on_cpu = len(pairs) >= COMPILED_FROM, self.device == "cpu"
            compile = long and on_cpu and records(self, type(self.network))
        denoiser = self.denoiser(labels, guidance, compile)
        denoiser.prepare([t for t, _ in pairs])
        chosen = choose("sampler", sampler, SAMPLERS)
        condition = self._known(known, mask, n)
        x = rng.normal((n, self.features), device=self.device)
        if condition is None:
            few = self.device == "gpu" and guidance == 1 and len(pairs) <= AT_ONCE
            if compile and few:
                x = self._at_once(chosen, x, labels, pairs, rng)
            else:
                x = chosen(denoiser, x, pairs, rng)
            return self._on_levels(self.denormalise(x))
        known, mask = condition
        resample = whole("resample", resample)
        x = inpaint(chosen, denoiser, x, pairs, rng, self.normalise(known), mask, resample)
        return namespace_of(x).where(mask, known, self._on_levels(self.denormalise(x)))

    def _at_once(
        self, sampler: Sampler, x: Array, labels: Any, pairs: Any, rng: Generator
    ) -> Array:
        """All steps as one program."""
        program, parts, stream = self.compiled_sampling
        stream.state = rng.state
        x = program(parts, x, labels, stream, sampler, tuple(pairs))
        rng.state = stream.state
        return x

    def _on_levels(self, x: Array) -> Array:
        """Samples of data with grey levels, each at the nearest level."""
        intervals = float(self.grey_levels.data) - 1 if self.bounded else 0.0
        return namespace_of(x).rint(x * intervals) / np.float32(intervals) if intervals > 0 else x

    def _known(self, known: Any, mask: Any, n: int) -> tuple[Array, Array] | None:
        """The data to inpaint and the mask (n, features), checked; None for no inpainting."""
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
        return self.check(m.where(mask, known, 0.0)), mask  # what is unknown may be anything


def _schedule(choice: str | NoiseSchedule, T: int) -> NoiseSchedule:
    """The schedule of this name with T steps, or the schedule given. Warns if x_T keeps the data."""
    make = choose("schedule", choice, SCHEDULES)
    if not isinstance(make, NoiseSchedule):
        make = make(whole("the number of diffusion steps T", T, 1, MAX_T))
    if make.abar[-1] > 0.01:
        warnings.warn(
            f"abar_T = {make.abar[-1]:.3g}: x_T keeps some of the data, but sampling "
            "starts from pure noise; choose larger β or a larger T",
            stacklevel=3,
        )
    return make


def count_grey_levels(x: Array) -> int:
    """How many equally spaced levels from 0 to 1 the values of x are: at most 256, else 0."""
    values = np.unique(x)
    if not 2 <= len(values) <= 256:
        return 0
    intervals = round(1 / float(np.diff(values).min()))
    fits = intervals < 256 and np.abs(values * intervals - np.rint(values * intervals)).max() < 1e-3
    return intervals + 1 if fits else 0
