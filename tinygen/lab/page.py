"""The laboratory as one file: every model of the handout, trained on the same points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygen.data import Dataset
from tinygen.errors import whole
from tinygen.lab.frames import Scene, steady, watched
from tinygen.models import MODELS, Model
from tinygen.models.model import choose
from tinygen.report.page import ALLOWED, Page, filled
from tinygen.training import Settings

__all__ = ["CHOICES", "STEPS", "laboratory", "make", "page_of"]

TEMPLATE = Path(__file__).with_name("lab.html")
STEPS = 4000
LOOKS = 24  # frames of a run

SMALL: dict[str, Any] = {"hidden": (64, 64), "bounded": False}
OPTIONS: dict[str, dict[str, Any]] = {  # small networks, which learn the plane in seconds
    "ae": SMALL | {"latent": 1},
    "dae": SMALL | {"latent": 2, "corruption": "gaussian"},
    "cae": SMALL | {"latent": 1},
    "vae": {"hidden": (64, 64), "activation": "tanh", "latent": 2, "likelihood": "gaussian"},
    "gan": SMALL | {"latent": 2},
    "ddpm": {"width": 64, "blocks": 2, "T": 100, "bounded": False},
}
FASTER = {name: {"lr": 3e-3} for name in ("ae", "dae", "cae")}  # small networks bear it
CHOICES: dict[str, dict[str, list[Any]]] = {  # what the live page offers; the first is the default
    "ae": {"latent": [1, 2]},
    "dae": {"amount": [0.3, 0.1, 0.6]},
    "cae": {"penalty": [0.1, 0.0, 1.0]},
    "vae": {"beta": [1.0, 0.1, 4.0], "latent": [2, 1]},
    "gan": {"penalty": [None, "r1"], "loss": ["non-saturating", "minimax"]},
    "ddpm": {"schedule": ["cosine", "linear", "sigmoid"], "predict": ["velocity", "noise", "data"]},
}


def make(
    name: str, steps: int, seed: int, options: dict[str, Any] | None = None
) -> tuple[Model, Settings]:
    """A small model for two columns, and its settings; `options` are some of `CHOICES`.

    ValueError: an unknown model, an option or a value that is not offered.
    """
    cls = choose("model", name, MODELS)
    chosen = {option: values[0] for option, values in CHOICES[name].items()}
    for option, value in (options or {}).items():
        if value not in choose(f"option of {name}", option, CHOICES[name]):
            raise ValueError(f"{option} is one of {CHOICES[name][option]}, not {value!r}")
        chosen[option] = value
    settings = cls.defaults.changed(steps=whole("steps", steps), seed=seed, **FASTER.get(name, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a schedule whose x_T keeps some of the data
        return cls(2, **OPTIONS[name] | chosen, seed=seed), settings


def laboratory(
    data: Dataset,
    steps: int = STEPS,
    seed: int = 0,
    tell: Callable[[str], Any] = lambda line: None,
) -> Page:
    """A page on which all models are seen while they learn `data`, each with the same number of
    updates. `tell` gets a line for each. ValueError: see `Scene`, or no step.
    """
    scene, runs = Scene(data), []
    for name in MODELS:
        model, settings = make(name, steps, seed)
        shown: list[dict[str, Any]] = []
        runs.append({**steady(name, model, scene, settings), "frames": shown})
        try:
            watched(model, scene, settings, LOOKS, shown.append)
            tell(f"{name}: {steps} updates in {shown[-1]['seconds']:.1f} s")
        except (ValueError, ArithmeticError) as error:
            # It diverged, and the page has the frames before.
            tell(f"{name}: {error}")
    return page_of(head=scene.head, runs=runs)


def page_of(
    head: dict[str, Any] | None, runs: list[dict[str, Any]], live: dict[str, Any] | None = None
) -> Page:
    """The page with what it shows. live: what a page that is served offers."""
    title = head["name"] if head else "tinygen"
    parts = {"allowed": f"{ALLOWED[True]}; connect-src 'self'"} if live else {}
    told = {"head": head, "runs": runs, "live": live}
    return filled(TEMPLATE, title=title, about="the laboratory", data=told, **parts)
