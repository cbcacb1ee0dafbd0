"""The report of a run as a page: its pictures, measures, losses, settings, and how to go on."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.report.page import Page, filled

__all__ = ["run_html"]

TEMPLATE = Path(__file__).with_name("run.html")
MOST = 1_700_000  # characters of the pictures together, so that the page stays below 2 MB
WIDTH, HEIGHT = 320, 130  # of a curve
POINTS = 160  # in a curve

PICTURES = {  # by the file's name: the caption, and what it shows for those who do not see it
    "samples.png": ("Samples at the end.", "Samples of the trained model."),
    "reconstructions.png": (
        "Held-out images, and below each its reconstruction.",
        "Rows of held-out images, each above its reconstruction, which should look the same.",
    ),
    "training.gif": (
        "The same samples while the model learned.",
        "An animation of the pictures of the samples at moments of the training.",
    ),
    "progress.png": (
        "Samples at moments of the training. Each begins with the same noise, so that the eye can "
        "compare. Diffusion models draw them with fewer steps than at the end.",
        "Pictures of the samples at moments of the training, from step 0 to the last step.",
    ),
}
CLASSES = {"training.gif": "moving", "progress.png": "wide"}
MEANINGS = {  # of a measure: what is better, and what it says
    "loss": ("lower", "What training makes small. Compare it between runs of the same model alone."),
    "reconstruction": ("lower", "How far a row lies from what the model makes of its code."),
    "kl": ("", "How much a code tells about its row, in nats. At 0 it tells nothing."),
    "contraction": ("", "How steeply a code changes with its row, as a squared norm."),
    "penalty": ("", "The part of the loss that keeps slopes small."),
    "discriminator": (
        "",
        "The loss of the network that tells data from samples. It is 1.39 where that network can "
        "only guess, if it is the usual cross-entropy.",
    ),
    "generator": (
        "", "The loss of the network that makes samples. Alone it does not tell a good run."
    ),
    "bound": ("lower", "A random part of the variational bound, in nats for each feature."),
    "score": ("higher", "A lower bound on the log-density of a row, in nats."),
    "log_likelihood": ("higher", "The log-density of a row, by importance sampling, in nats."),
    "log_likelihood_error": ("lower", "The standard error of that estimate."),
    "effective_samples": (
        "higher", "How many of the 200 weights of that estimate count. With few it is not to be trusted."
    ),
    "k_hat": ("lower", "How heavy the tail of these weights is. The estimate can be trusted up to 0.7."),
    "k_hat_above_0.7": ("lower", "The share of rows whose estimate is not to be trusted."),
    "sliced_wasserstein": (
        "lower",
        "How far samples must move to become real rows, as seen along random directions.",
    ),
    "wasserstein": ("lower", "How far samples must move at least to become real rows."),
    "mmd_squared": (
        "lower", "How much a kernel sees the two sets differ. It may be negative if they are alike."
    ),
    "mmd_p_value": (
        "higher", "How often sets of one law differ as much. Below 0.05 they are told apart."
    ),
    "mmd_bandwidth": ("", "The width of that kernel, which is no measure of quality."),
    "precision": ("higher", "The share of samples that lie where real rows lie."),
    "recall": ("higher", "The share of real rows that lie where samples lie."),
    "density": ("near 1", "How many real rows lie around a sample. Blurred samples reach more than 1."),
    "coverage": ("higher", "The share of real rows that have a sample near them."),
    "c2st_accuracy": (
        "near 0.5", "How often a network tells a sample from a real row. At 0.5 it can only guess."
    ),
    "c2st_standard_error": ("", "The standard error of that share."),
    "memorisation_ratio": (
        "near 1",
        "How far a sample lies from the nearest training row, beside how far a held-out row does. "
        "Far below 1 the model repeats what it was trained on.",
    ),
    "memorisation_closer": (
        "near 0.05", "The share of samples nearer to a training row than 95 % of held-out rows are."
    ),
    "memorisation_copies": ("lower", "The share of samples that are equal to a training row."),
}  # fmt: skip


def run_html(
    metrics: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    pictures: Mapping[str, bytes],
    commands: Mapping[str, str],
) -> Page:
    """The page of a run.

    metrics: what `metrics.json` holds. history: the terms of the losses, value by value.
    pictures: files by name, of those in PICTURES. commands: lines for a terminal, by what they do.
    """
    settings, sittings = metrics["settings"], metrics["sittings"]
    told = [remark for sitting in sittings for remark in sitting.get("told", ())]
    summary = (
        f"{settings['steps']} training steps of {settings['batch']} rows in "
        f"{metrics['seconds']:.0f} s on the {metrics['device']}"
    )
    versions = " ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    given = {f"option {k}": v for k, v in {**metrics["options"], **metrics["csv"]}.items()}
    chosen = {"data": metrics["data"], **settings, **given, "versions": versions}
    keys = [*dict.fromkeys(k for s in sittings for k in s if k != "told")]
    return filled(
        TEMPLATE,
        title=f"{metrics['model']} on {metrics['data']}",
        about="a run",
        summary=escape(summary),
        told=_told(told),
        pictures=_pictures(pictures),
        samples=_table(
            ["measure", "samples", "floor", "better", "what it says"],
            (_measure(k, v, metrics["floor"].get(k)) for k, v in metrics["samples"].items()),
        ),
        held_out=_table(
            ["measure", "value", "better", "what it says"],
            (_measure(name, value) for name, value in metrics["held_out"].items()),
        ),
        curves="\n".join(_curve(name, values) for name, values in history.items()),
        settings=_table([], ([_head(k), _cell(v)] for k, v in chosen.items())),
        sittings=_table(keys, ([_cell(s.get(k, "")) for k in keys] for s in sittings)),
        next=_commands(commands),
    )


# -- tables --------------------------------------------------------------------------------------
def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML; it scrolls where it is wider than the screen."""
    filled_rows = [f"<tr>{''.join(row)}</tr>" for row in rows]
    if not filled_rows:
        return "<p>None could be computed.</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    head = f"<thead><tr>{head}</tr></thead>\n" if head else ""
    body = "\n".join(filled_rows)
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'


def _head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _cell(value: Any) -> str:
    return f"<td>{escape(str(value))}</td>"


def _measure(name: str, *values: float | None) -> list[str]:
    better, text = MEANINGS.get(name, ("", ""))
    numbers = [f'<td class="num">{"" if v is None else _number(v)}</td>' for v in values]
    return [_head(name), *numbers, f'<td class="better">{better}</td>', _cell(text)]


def _number(v: float) -> str:
    return f"{v:.4g}".replace("-", "−")


# -- the other parts -----------------------------------------------------------------------------
def _told(remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f'<aside id="told"><strong>What was told in this run</strong><ul>{items}</ul></aside>'


def _pictures(files: Mapping[str, bytes]) -> str:
    """The pictures in the page itself, as far as there is room for them."""
    figures, room = [], MOST
    for name, (caption, alt) in PICTURES.items():
        if name not in files:
            continue
        source = f"data:image/{name[-3:]};base64,{b64encode(files[name]).decode()}"
        if len(source) <= room:
            room -= len(source)
            shown = f'<img src="{source}" alt="{escape(alt)}">'
        else:
            shown = f"<p>{name} is too large for this page. It lies in the folder of the run.</p>"
        figures.append(
            f'<figure class="{CLASSES.get(name, "still")}">{shown}'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    none = "<p>There are none: they need matplotlib.</p>"
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else none


def _commands(commands: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(k)}</dt><dd><pre>{escape(v)}</pre></dd>" for k, v in commands.items())
    return f"<dl>{''.join(items)}</dl>"


def _curve(name: str, values: Sequence[float]) -> str:
    """A term of the losses over its updates: the mean of neighbours, between their extremes."""
    parts = np.array_split(np.asarray(values, np.float64), max(1, min(POINTS, len(values))))
    ends = np.cumsum([len(part) for part in parts])
    found = [(end, part[np.isfinite(part)]) for end, part in zip(ends, parts, strict=True)]
    rows = [(end, p.mean(), p.min(), p.max()) for end, p in found if len(p)]
    if not rows:
        return f"<figure><figcaption>{escape(name)}</figcaption><p>No finite value.</p></figure>"
    end, mean, least, most = np.array(rows).T
    low, high = mean.min(), mean.max()
    margin = 0.1 * (high - low) or 1.0

    def down(value: Any) -> Any:
        """From the upper edge. A band that leaves the picture ends at its edge."""
        at = (high + margin - value) / (high - low + 2 * margin)
        return HEIGHT * np.clip(at, 0.0, 1.0)

    across = end / len(values) * WIDTH
    band = _points([*across, *across[::-1]], [*down(most), *down(least)[::-1]])
    told = f"{name}: from {_number(mean[0])} to {_number(mean[-1])} in {len(values)} updates"
    return f"""<figure><figcaption>{escape(name)}: {_number(mean[-1])} at the end</figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" role="img" aria-label="{escape(told)}">
<polygon class="band" points="{band}"/><polyline class="mean" points="{_points(across, down(mean))}"/>
<path class="axis" d="M0 {HEIGHT}H{WIDTH}"/>
<text x="2" y="{down(high) + 4:.0f}">{_number(high)}</text>
<text x="2" y="{down(low) + 4:.0f}">{_number(low)}</text>
<text x="0" y="{HEIGHT + 13}">1</text>
<text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{len(values)}</text>
</svg></figure>"""


def _points(x: Any, y: Any) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
