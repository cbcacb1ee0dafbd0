"""Gradient clipping by the global norm, and the moving average of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, sqrt
from typing import Any

import numpy as np

from tinygen import kernels
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.promotion import check_tensor
from tinygen.backend import namespace_of, recorder, to_device

__all__ = ["EMA", "clip_global_norm"]


def clip_global_norm(
    parameters: Iterable[Tensor] | Mapping[str, Tensor], limit: float = inf
) -> float:
    """Scale all gradients by one factor so that their joint Euclidean norm is at most `limit`.

    Returns the norm before. A norm that is not finite leaves the gradients as they are: the
    caller sees it. ValueError: a limit that is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"the limit of the gradient norm is above 0, not {limit}")
    if isinstance(parameters, Mapping):
        parameters = parameters.values()
    arrays = [g.data for p in parameters if (g := p.grad) is not None]
    if not arrays:
        return 0.0
    m = namespace_of(arrays[0])
    if (record := recorder.get()) is not None:
        return _clip_in_step(record, m, arrays, limit)
    norm = sqrt(float(kernels.sum_squares(m, arrays)))
    if norm == inf:  # perhaps only the squares were too large for float32
        norm = sqrt(sum(float(m.sum(m.square(g, dtype=np.float64))) for g in arrays))
    if limit < norm < inf:
        kernels.scale_all(m, arrays, limit / norm)
    return norm


def _clip_in_step(record: Any, m: Any, arrays: list[Any], limit: float) -> Any:
    """The same in a compiled step, where nobody waits for the norm: one that is not finite ends it."""
    norm = m.sqrt(kernels.sum_squares(m, arrays))
    record.stop_unless(m.isfinite(norm), "the norm of the gradient is finite")
    share = m.minimum(1.0, limit / norm)
    for g in arrays:
        g *= share.astype(g.dtype)
    return norm


Parameters = Mapping[str, Tensor] | Iterable[Tensor]


def by_name(parameters: Parameters) -> dict[str, Tensor]:
    """Parameters by name: a list's names are its positions. TypeError: they are not Tensors."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"parameters are a list or go by name, not a {type(parameters).__name__}: pass "
            "module.parameters() or module.named_parameters()"
        )
    named = parameters if isinstance(parameters, Mapping) else dict(enumerate(parameters))
    for name, p in named.items():
        check_tensor(f"parameter {name}", p)
    return {str(name): p for name, p in named.items()}


class EMA:
    """Exponential moving average of parameters: average ← decay · average + (1 - decay) · p.

    An optimiser of the same parameters moves it: `adam.step(ema)`. In the first steps a smaller
    decay, (1 + n) / (10 + n), keeps the start from lingering.
    """

    def __init__(self, parameters: Parameters, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"an EMA's decay is in [0, 1), not {decay}")
        self.parameters = by_name(parameters)
        self.decay = decay
        self.updates = 0
        self.average = {name: p.data.copy() for name, p in self.parameters.items()}

    def count_update(self) -> float:
        """Count one update, and return 1 minus its decay: what the difference is multiplied by."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        return 1 - decay

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the average inside the `with` block, and their own values after."""
        own = {name: p.data for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            p.data = self.average[name]
        try:
            yield
        finally:
            for name, p in self.parameters.items():
                p.data = own[name]

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """NumPy copies of the averages by parameter, and the count as `updates`."""
        copies = {name: to_device(a.copy(), "cpu") for name, a in self.average.items()}
        return {
            "updates": np.array(self.updates),
            **{f"average/{name}": a for name, a in copies.items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """The inverse of `state_dict`; ValueError if names or shapes differ."""
        own = {f"average/{name}": a for name, a in self.average.items()}
        wrong = sorted(state.keys() ^ (own.keys() | {"updates"}))
        wrong += [p for p, a in own.items() if p in state and state[p].shape != a.shape]
        if wrong:
            raise ValueError(f"the average's state does not fit, see {', '.join(wrong)}")
        for path, average in own.items():
            average[...] = to_device(state[path], namespace_of(average).device)
        self.updates = int(state["updates"])
