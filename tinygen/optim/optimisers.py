"""SGD, Adam, AdamW, RMSprop: each updates parameters in place from their `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygen import kernels
from tinygen.autodiff.engine import Tensor
from tinygen.backend import lift, namespace_of, to_device, varying
from tinygen.kernels.reference import blocks
from tinygen.optim.averages import EMA, Parameters, by_name

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]

Array = np.ndarray[Any, Any]
Schedule = Callable[[int], float]


class StepNumbers(NamedTuple):
    """The numbers of one step, which are others at the next.

    one_minus_decay: of the average of the parameters.
    step_size, bias_correction, weight_decay_factor: of Adam and AdamW, see `kernels.AdamStep`.
    """

    lr: float
    one_minus_decay: float = 0.0
    step_size: float = 0.0
    bias_correction: float = 1.0
    weight_decay_factor: float = 1.0


class Optimizer:
    """What optimisers share: parameters by name, the step count, and state arrays by name.

    parameters: leaf Tensors by name, as `module.named_parameters()` gives them, or a list of them, as
        `module.parameters()` does: then their names are 0, 1, ...
    lr: the learning rate, a number or a schedule (step 0, 1, ... to a number).
    ValueError: no parameters, or a number out of range.
    """

    slots: tuple[str, ...] = ()
    """Names of the state arrays that each parameter has."""

    def __init__(self, parameters: Parameters, lr: float | Schedule) -> None:
        self.parameters = by_name(parameters)
        if not self.parameters:
            raise ValueError("an optimiser needs at least one parameter")
        if not callable(lr) and not lr >= 0:
            raise ValueError(f"a learning rate is at least 0, not {lr}")
        self.lr = lr
        self.steps = 0
        self.state: dict[str, dict[str, Array]] = {
            slot: {
                name: namespace_of(p.data).zeros_like(p.data) for name, p in self.parameters.items()
            }
            for slot in self.slots
        }

    def __repr__(self) -> str:
        lr = self.lr(self.steps) if callable(self.lr) else self.lr
        n = len(self.parameters)
        return f"{type(self).__name__}({n} parameters, lr {lr:.4g}, step {self.steps})"

    def step(self, average: EMA | None = None) -> None:
        """Update every parameter that has a gradient, and count one step.

        An `average` of the same parameters moves towards them in the same pass (ValueError: it is
        of others). Parameters change in place: finish every backward pass of graphs built before.
        """
        if average is not None and not _same(average.parameters, self.parameters):
            raise ValueError("the average is of other parameters than the optimiser's")
        numbers, rows = varying(lambda: self._next_numbers(average)), []
        for name, p in self.parameters.items():
            averaged = None if average is None else lift(average.average[name])
            state = [lift(self.state[slot][name]) for slot in self.slots]
            gradient = p.grad
            if gradient is not None:
                rows.append((p.data, gradient.data, *state, averaged))
            elif averaged is not None:
                averaged += numbers.one_minus_decay * (p.data - averaged)
        if rows:
            self._apply(numbers, rows)

    def _next_numbers(self, average: EMA | None) -> StepNumbers:
        """Count one step, and return its numbers."""
        lr = self.lr(self.steps) if callable(self.lr) else self.lr
        self.steps += 1
        return self._numbers(lr)._replace(
            one_minus_decay=0.0 if average is None else average.count_update()
        )

    def _numbers(self, lr: float) -> StepNumbers:
        """The numbers of step `self.steps`, without the average's."""
        return StepNumbers(lr)

    def _apply(self, numbers: StepNumbers, rows: list[tuple[Any, ...]]) -> None:
        """Update parameters from rows (p, g, *state, average or None), block by block."""
        for *arrays, averaged in rows:
            for p, g, *rest in blocks([*arrays, *([] if averaged is None else [averaged])]):
                self._update(numbers.lr, p, g, *rest[: len(self.slots)])
                if averaged is not None:
                    rest[-1] += numbers.one_minus_decay * (p - rest[-1])

    def _update(self, lr: float, p: Array, g: Array, *state: Array) -> None:
        """Change p and its state in place; all are flat views of equal length."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget the gradients of the parameters."""
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, Array]:
        """The state arrays as `slot/parameter`, and the count as `steps`: NumPy copies."""
        own = {f"{s}/{n}": a for s, of in self.state.items() for n, a in of.items()}
        arrays = {path: to_device(a.copy(), "cpu") for path, a in own.items()}
        return {"steps": np.array(self.steps), **arrays}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """The inverse of `state_dict`; ValueError names what is missing or does not fit."""
        own = {f"{s}/{n}": a for s, of in self.state.items() for n, a in of.items()}
        if state.keys() != own.keys() | {"steps"}:
            differing = sorted(state.keys() ^ (own.keys() | {"steps"}))
            raise ValueError(f"the optimiser's state does not fit, see {', '.join(differing)}")
        for path, array in own.items():
            if state[path].shape != array.shape:
                raise ValueError(
                    f"{path}: shape {state[path].shape}, the optimiser has {array.shape}"
                )
        for path, array in own.items():
            array[...] = to_device(state[path], namespace_of(array).device)
        self.steps = int(state["steps"])


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(p is b[name] for name, p in a.items())


class SGD(Optimizer):
    """Gradient descent, with momentum v ← momentum · v + g, p ← p - lr · v.

    With `nesterov`, p ← p - lr · (g + momentum · v) (Sutskever et al. 2013).
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        _in_unit("momentum", momentum)
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        self.slots = ("velocity",) if momentum else ()
        super().__init__(parameters, lr)
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, lr: float, p: Array, g: Array, *state: Array) -> None:
        if not state:
            p -= lr * g
            return
        (v,) = state
        v *= self.momentum
        v += g
        p -= lr * (g + self.momentum * v if self.nesterov else v)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), with bias-corrected moments of the gradient."""

    slots = ("mean", "square")

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        for beta in betas:
            _in_unit("beta", beta)
        _not_negative("eps", eps)
        super().__init__(parameters, lr)
        self.betas, self.eps = betas, eps

    def _numbers(self, lr: float) -> StepNumbers:
        b1, b2 = self.betas
        return StepNumbers(
            lr,
            step_size=lr / (1 - b1**self.steps),
            bias_correction=(1 - b2**self.steps) ** -0.5,
            weight_decay_factor=self._weight_decay_factor(lr),
        )

    def _apply(self, numbers: StepNumbers, rows: list[tuple[Any, ...]]) -> None:
        b1, b2 = self.betas
        step = kernels.AdamStep(
            b1, 1 - b1, b2, 1 - b2, numbers.step_size, numbers.bias_correction, self.eps,
            numbers.weight_decay_factor, numbers.one_minus_decay,
        )  # fmt: skip
        kernels.adam_of_all(rows, step)

    def _weight_decay_factor(self, lr: float) -> float:
        """What multiplies a parameter before its step."""
        return 1.0


class AdamW(Adam):
    """Adam with decoupled weight decay: p ← (1 - lr · weight_decay) p first (Loshchilov 2019)."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        _not_negative("weight_decay", weight_decay)
        super().__init__(parameters, lr, betas, eps)
        self.weight_decay = weight_decay

    def _weight_decay_factor(self, lr: float) -> float:
        return 1 - lr * self.weight_decay


class RMSprop(Optimizer):
    """p ← p - lr · g / (sqrt(v) + eps) with v the running mean of g² (Tieleman & Hinton 2012)."""

    slots = ("square",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        _in_unit("alpha", alpha)
        _not_negative("eps", eps)
        super().__init__(parameters, lr)
        self.alpha, self.eps = alpha, eps

    def _update(self, lr: float, p: Array, g: Array, *state: Array) -> None:
        (square,) = state
        square *= self.alpha
        square += (1 - self.alpha) * (g * g)
        p -= lr * g / (namespace_of(square).sqrt(square) + self.eps)


def _in_unit(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is in [0, 1), not {value}")


def _not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} is at least 0, not {value}")
