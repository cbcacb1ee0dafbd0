"""What is seen of a model in the plane while it trains: numbers for the page to draw.

Points are whole hundredths of the data's units, one after the other: x, y, x, y, ... A map is a square
of whole hundredths, row by row from below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tinygen import pictures
from tinygen.autodiff.modes import no_grad
from tinygen.data import Dataset
from tinygen.data.files import suffix_of
from tinygen.errors import NonFiniteError
from tinygen.lab.baselines import gaussian_mixture, kernel_density
from tinygen.metrics import mmd, prdc, sliced_wasserstein
from tinygen.models import DDPM, GAN, VAE, Autoencoder, Model
from tinygen.models.autoencoder import jacobian_norm
from tinygen.models.diffusion import score
from tinygen.models.diffusion.samplers import SAMPLERS
from tinygen.models.rows import moments
from tinygen.random import Generator
from tinygen.training import Settings

__all__ = ["Scene", "frame", "reverse_paths", "steady", "watched"]

Array = np.ndarray[Any, Any]

LEAST = 60  # rows of a data set: with fewer, the measures by neighbours mean nothing
SAMPLES = 250  # drawn of a model, shown and measured
SHOWN = 400  # of the data's rows
FITTED = 3000  # rows that the baselines are fitted to
CODED = 150  # rows whose codes are shown
MAP = 28  # cells along a side of a map
ARROWS = 12  # along a side of a field
SCORES = (0.03, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)  # of T: the times at which the score is shown
PATHS = 48  # of the reverse process
PATH_STEPS = (5, 10, 25, 50)
NORMALISED = 3.3  # half the width of the plane of standardised numbers


class Scene:
    """Points in the plane, and the window through which they are seen.

    The columns of a file are standardised, since their units may differ by orders of magnitude.
    ValueError: not two columns, or fewer than 60 rows.
    """

    def __init__(self, data: Dataset) -> None:
        (rows, columns), held_out = data.x.shape, len(data.test)
        if columns != 2:
            raise ValueError(
                f"{data.name} has {columns} column{'s' * (columns > 1)}, the laboratory shows two: "
                "--columns A,B chooses those of a .csv file"
            )
        if rows + held_out < LEAST:
            raise ValueError(
                f"{data.name} has {rows + held_out} points, the laboratory needs at least {LEAST}"
            )
        self.standardised = suffix_of(data.name) is not None
        if self.standardised:
            mean, std = moments(data.x)
            std[std == 0] = 1.0
            x, test = (((rows - mean) / std).astype(np.float32) for rows in (data.x, data.test))
            data = replace(data, x=x, test=test)
        self.data = data

    @cached_property
    def window(self) -> tuple[float, float, float]:
        """The centre (x, y) and half the side of the square that is shown."""
        low, high = np.quantile(self.data.x, [0.005, 0.995], axis=0)
        half = 0.66 * float((high - low).max())
        return *((low + high) / 2).tolist(), half if half > 0 else 1.0

    def grid(self, side: int) -> Array:
        """The centres (side², 2) of the cells of the window, row by row from below."""
        x, y, half = self.window
        return _grid(side, half) + np.array([x, y], np.float32)

    def measures(self, samples: Array) -> dict[str, float]:
        """Samples (n, 2) beside as many held-out rows."""
        return _measures(samples, self._apart[0])

    @cached_property
    def _apart(self) -> tuple[Array, Array]:
        """Held-out rows to compare with, and real rows in the place of samples: held-out too if there
        are enough."""
        test, x = self.data.test, self.data.x
        n = min(SAMPLES, len(test))
        order = Generator(0).child("spare").permutation(len(x))
        spare = test[n:] if len(test) >= 2 * n else x[order]
        return test[:n], spare[:n]

    @cached_property
    def head(self) -> dict[str, Any]:
        """What the page shows whatever is trained: the data, the measures' floor, the baselines."""
        x = self.data.x
        floor, fitted = self._apart[1], x[:FITTED]
        return {
            "name": Path(self.data.name).name,
            "standardised": self.standardised,
            "rows": len(x),
            "window": self.window,
            "points": whole_hundredths(x[:SHOWN]),
            "map": MAP,
            "arrows": ARROWS,
            "floor": {"samples": whole_hundredths(floor), "measures": self.measures(floor)},
            "baselines": [
                self._baseline(
                    "Gaussian mixture", "8 Gaussians, fitted by EM", gaussian_mixture(fitted)
                ),
                self._baseline(
                    "Kernel density", f"a Gaussian on {len(fitted)} points", kernel_density(fitted)
                ),
            ],
        }

    def _baseline(self, name: str, about: str, law: Any) -> dict[str, Any]:
        samples, density = law.sample(SAMPLES, 0), np.exp(law.log_density(self.grid(MAP)))
        return {
            "name": name,
            "about": about,
            "samples": whole_hundredths(samples),
            "measures": self.measures(samples),
            "map": whole_hundredths(density / density.max()),
        }


def _measures(samples: Array, rows: Array) -> dict[str, float]:
    """Measures of samples beside rows, rounded. The same projections each time: only samples differ."""
    n = min(len(samples), len(rows))
    samples = np.clip(samples[:n], -1e4, 1e4)  # of a run that diverges
    near = prdc(samples, rows[:n])
    found = {
        "sliced_wasserstein": sliced_wasserstein(samples, rows[:n], Generator(0)),
        "mmd": mmd(samples, rows[:n], Generator(0), permutations=1).squared,
        "precision": near.precision, "recall": near.recall, "coverage": near.coverage,
    }  # fmt: skip
    return {name: round(value, 4) for name, value in found.items()}


def whole_hundredths(a: Any) -> list[int]:
    """The elements in order, in hundredths; none beyond ±99."""
    return np.rint(100 * np.clip(np.nan_to_num(a), -99, 99)).astype(int).ravel().tolist()


def _grid(side: int, half: float) -> Array:
    """The centres (side², 2) of the cells of the square [-half, half]², row by row from below."""
    at = (np.arange(side, dtype=np.float32) + 0.5) * (2 * half / side) - half
    y, x = np.meshgrid(at, at, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


# -- what stays ----------------------------------------------------------------------------------
def steady(name: str, model: Model, scene: Scene, settings: Settings) -> dict[str, Any]:
    """What the page shows of a model in each of its frames, and says of its run."""
    told = {
        "model": name,
        "options": {k: v for k, v in model.config.items() if k not in ("features", "seed")},
        "settings": asdict(settings),
        "parameters": sum(p.size for p in model.parameters()),
    }
    if isinstance(model, DDPM):
        rng = Generator(0).child("forward")
        clean = model.normalise(scene.data.x[:SAMPLES])
        told |= {
            "signal": np.round(model.schedule.signal, 4).tolist(),
            "noise": np.round(model.schedule.noise, 4).tolist(),
            "clean": whole_hundredths(clean),
            "eps": whole_hundredths(rng.normal(clean.shape)),
            "half": NORMALISED,
            "times": _times(model),
        }
    return told


def _times(model: DDPM) -> list[int]:
    return sorted({max(1, round(share * model.schedule.T)) for share in SCORES})


# -- a run ---------------------------------------------------------------------------------------
def watched(
    model: Model,
    scene: Scene,
    settings: Settings,
    looks: int,
    tell: Callable[[dict[str, Any]], Any],
    resting: Callable[[], bool] = lambda: False,
) -> None:
    """Train `model` on the points of the scene. `tell` gets a frame at each of so many moments.

    The seconds of a frame are those of the training, compiling included. If `resting()`, a frame has
    what only the last one has. NonFiniteError: a loss, a gradient or the samples are not finite.
    """
    began = perf_counter()

    def look(step: int) -> None:
        nonlocal began
        now = perf_counter()
        final = resting() or step == settings.steps
        tell(frame(model, scene, step, now - began, final))
        began += perf_counter() - now

    at = pictures.moments(settings.steps, looks)
    model.fit(scene.data.x, settings=settings, look=look, look_at=at)


# -- a frame -------------------------------------------------------------------------------------
@np.errstate(all="ignore")  # what overflows is told, or bounded for the page
def frame(model: Any, scene: Scene, step: int, seconds: float, final: bool) -> dict[str, Any]:
    """What the page shows of a model after so many steps. final: with what only the last frame has.

    The same random numbers are used in every frame, so that only the model moves.
    NonFiniteError: the samples are not finite.
    """
    samples = model.sample(SAMPLES, rng=Generator(0).child("samples"))
    if not np.isfinite(samples).all():
        raise NonFiniteError(f"after {step} updates the samples are not finite: the run diverged")
    view = next(view for kind, view in VIEWS.items() if isinstance(model, kind))
    return {
        "step": step,
        "seconds": round(seconds, 2),
        "samples": whole_hundredths(samples),
        "measures": scene.measures(samples),
        "terms": _terms(model, scene.data.test[:SAMPLES]),
        **view(model, scene, final),
    }


def _terms(model: Model, rows: Array) -> dict[str, float]:
    """The terms of the losses on held-out rows, rounded."""
    rows, rng = model.check(rows), Generator(0).child("terms")
    losses = {o.name: o.loss for o in model.objectives()}
    terms = {k: v for loss in losses.values() for k, v in loss(rows, rng=rng).items()}
    return {name: _finite(value.item()) for name, value in terms.items()}


def _finite(value: float) -> float:
    return round(float(np.clip(np.nan_to_num(value), -1e6, 1e6)), 4)


@no_grad()
def _of_autoencoder(model: Autoencoder, scene: Scene, final: bool) -> dict[str, Any]:
    """Where points go, how strongly the code reacts, and for codes of one number the curve of all
    reconstructions."""
    arrows, cells = scene.grid(ARROWS), scene.grid(MAP)
    slopes = np.sqrt(jacobian_norm(model.encoder, model.normalise(cells)).data)
    at_data = model.normalise(scene.data.x[:SHOWN])
    shown = {
        "field": whole_hundredths(model.reconstruct(arrows) - arrows),
        "map": whole_hundredths(np.minimum(slopes / (np.quantile(slopes, 0.9) or 1), 1)),
        "slope": _finite(np.sqrt(jacobian_norm(model.encoder, at_data).data.mean())),
    }
    codes = model.code(at_data).data
    if codes.shape[1] == 1:
        low, high = (float(end) for end in np.quantile(codes, [0.002, 0.998]))
        line = np.linspace(low, high, 120, dtype=np.float32)
        shown["curve"] = whole_hundredths(model.decode(line[:, None]))
    return shown


@no_grad()
def _of_vae(model: VAE, scene: Scene, final: bool) -> dict[str, Any]:
    """The posteriors of some rows, and the grid of codes as the decoder bends it."""
    mean, log_var = model.posterior(model.normalise(scene.data.x[:CODED]))
    shown = {
        "means": whole_hundredths(mean.data),
        "stds": whole_hundredths(np.exp(0.5 * log_var.data)),
    }
    if model.latent == 2:
        lines, along = np.arange(-2, 2.5, 0.5), np.linspace(-2.5, 2.5, 21)
        across = np.array([[(a, b) for b in along] for a in lines], np.float32)
        shown["sheet"] = whole_hundredths(
            model.decode(np.concatenate([across, across[..., ::-1]]).reshape(-1, 2))
        )
    return shown


@no_grad()
def _of_gan(model: GAN, scene: Scene, final: bool) -> dict[str, Any]:
    """How D decides on the plane, from -1 for samples to 1 for data; the bound on held-out rows."""
    lean = np.tanh(0.5 * model.discriminator_logits(scene.grid(MAP)))  # 2 D - 1
    bound = model.js_bound(scene.data.test, rng=Generator(0).child("bound"))
    return {
        "map": whole_hundredths(np.sign(lean) * np.sqrt(abs(lean))),  # so that little is seen too
        "js": _finite(bound.js),
        "js_error": _finite(bound.error),
    }


def _of_diffusion(model: DDPM, scene: Scene, final: bool) -> dict[str, Any]:
    """The score at some times, in units of the noise: -ε; at the end the paths of each sampler."""
    at = _grid(ARROWS, NORMALISED)
    scores = [score(model, at, t) * model.schedule.at(t)[1] for t in _times(model)]
    shown: dict[str, Any] = {"scores": [whole_hundredths(s) for s in scores]}
    if final:
        shown["paths"] = {
            name: {
                n: _told(*reverse_paths(model, name, n, PATHS))
                for n in PATH_STEPS
                if n <= model.schedule.T
            }
            for name in SAMPLERS
        }
    return shown


def _told(times: list[int], states: list[Array]) -> dict[str, Any]:
    return {"times": times, "states": [whole_hundredths(x) for x in states]}


VIEWS: dict[type[Model], Any] = {
    Autoencoder: _of_autoencoder, VAE: _of_vae, GAN: _of_gan, DDPM: _of_diffusion
}  # fmt: skip


class _Seen:
    """A denoiser that adds every x_t it is asked about to `states`."""

    def __init__(self, denoiser: Any, states: list[Array]) -> None:
        self.denoiser, self.states = denoiser, states
        self.schedule, self.variance = denoiser.schedule, denoiser.variance

    def __call__(self, x: Array, t: int) -> Array:
        self.states.append(x.copy())
        return self.denoiser(x, t)

    def step(self, x: Array, *args: Any, **options: Any) -> Array:
        self.states.append(x.copy())
        return self.denoiser.step(x, *args, **options)


def reverse_paths(
    model: DDPM, sampler: str, steps: int, n: int, seed: int = 0
) -> tuple[list[int], list[Array]]:
    """The times and the rows (n, features), in normalised units, that `sample` goes through.

    As `model.sample(n, sampler=sampler, sampling_steps=steps, rng=Generator(seed))`: from x_T at the
    first time to x_0 at time 0.
    """
    states: list[Array] = []

    def keeping(denoiser: Any, x: Array, pairs: Any, rng: Generator) -> Array:
        end = SAMPLERS[sampler](_Seen(denoiser, states), x, pairs, rng)  # type: ignore[arg-type]
        states.append(end)
        return end

    model.sample(n, sampler=keeping, sampling_steps=steps, rng=Generator(seed))
    return [*model.schedule.times(steps), 0], states
