"""Small problems that `scipy.optimize` solves, as the users of a derivative library have them.

A problem is a function of the namespace of a library, of x, and of its data. All libraries give SciPy
value and gradient in float64, and take the same way: SciPy's own work is in every figure. `opened` is
the steady state, in a process that goes on; `first` is a program's start: the import of the library,
and the first solution. Nothing here imports a library before it is asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from benchmarks.suite.contract import Case, Opened, Tick

__all__ = ["PROBLEMS", "Problem", "case", "first", "opened"]

Function = Callable[[Any], Any]


class Problem(NamedTuple):
    """f(m, x, data), where to begin, and SciPy's method."""

    title: str
    f: Callable[[Any, Any, Case], Any]
    data: Callable[[np.random.Generator], Case]
    method: str = "BFGS"


# -- the problems ----------------------------------------------------------------------------------
def rosenbrock(m: Any, x: Any, d: Case) -> Any:
    """In 10 dimensions."""
    a, b = x[:-1], x[1:]
    return m.sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2)


def logistic(m: Any, x: Any, d: Case) -> Any:
    """Logistic regression: 1000 rows of 20 columns, and a penalty on the weights."""
    z = d["rows"] @ x
    return m.sum(m.softplus(z) - d["labels"] * z) + 0.5 * m.sum(x * x)


def process(m: Any, x: Any, d: Case) -> Any:
    """The marginal likelihood of a Gaussian process at 100 points: length, amplitude and noise."""
    smooth = m.exp(2.0 * x[1] - 0.5 * d["squares"] * m.exp(-2.0 * x[0]))
    factor = m.cholesky(smooth + m.exp(2.0 * x[2]) * d["identity"])
    white = m.solve(factor, d["y"])
    return 0.5 * m.sum(white * white) + m.sum(m.log(m.diagonal(factor)))


def weibull(m: Any, x: Any, d: Case) -> Any:
    """Survival of 500 with censoring: the log of the scale is linear in 5 columns; the log shape."""
    shape, away = m.exp(x[0]), d["log_times"] - d["rows"] @ x[1:]
    log_hazard = d["seen"] * (x[0] + (shape - 1.0) * away - d["rows"] @ x[1:])
    return (m.sum(m.exp(shape * away)) - m.sum(log_hazard)) / len(d["seen"])


def _rows(rng: np.random.Generator) -> Case:
    rows, w = rng.normal(size=(1000, 20)), rng.normal(size=20)
    return {
        "x0": np.zeros(20), "rows": rows,
        "labels": (rng.random(1000) < 1 / (1 + np.exp(-rows @ w))).astype(float),
    }  # fmt: skip


def _curve(rng: np.random.Generator) -> Case:
    x = rng.uniform(0, 10, 100)
    y = np.sin(x) + 0.2 * rng.normal(size=100)
    squares = (x[:, None] - x) ** 2
    return {
        "x0": np.array([0.5, 0.2, -1.0]), "squares": squares, "identity": np.eye(100),
        "y": y[:, None],
    }  # fmt: skip


def _survival(rng: np.random.Generator) -> Case:
    rows = np.concatenate([np.ones((500, 1)), rng.normal(size=(500, 4))], axis=1)
    times = np.exp(rows @ [2.0, 0.5, -0.3, 0.0, 0.2]) * rng.weibull(1.5, 500)
    ends = rng.exponential(20.0, 500)
    log_times, seen = np.log(np.minimum(times, ends)), (times < ends).astype(float)
    x0 = np.array([0.0, log_times.mean(), 0.0, 0.0, 0.0, 0.0])
    return {"x0": x0, "rows": rows, "log_times": log_times, "seen": seen}


PROBLEMS = {
    "rosenbrock": Problem("Rosenbrock, 10 dimensions", rosenbrock, lambda rng: {"x0": np.full(10, 1.3)}),
    "logistic": Problem("logistic regression, 1000 × 20", logistic, _rows),
    "process": Problem("Gaussian process, 100 points", process, _curve),
    "weibull": Problem("Weibull survival, 500 × 5, censored", weibull, _survival),
}  # fmt: skip


def case(name: str) -> Case:
    """The start x0 and the data of a problem, as arrays of float64."""
    return PROBLEMS[name].data(np.random.default_rng(0))


# -- the libraries ---------------------------------------------------------------------------------
def _tinygen(compiled: bool) -> tuple[Any, Callable[[Function], Any]]:
    tg: Any = import_module("tinygen")
    if compiled:
        return tg, lambda f: tg.compile(tg.value_and_grad(f))
    return tg, tg.value_and_grad


def _autograd(compiled: bool) -> tuple[Any, Callable[[Function], Any]]:
    m = import_module("autograd.numpy")
    names = {name: getattr(m, name) for name in ("exp", "log", "sum")}
    linalg: Any = m.linalg
    namespace = SimpleNamespace(
        **names,
        diagonal=lambda a: m.diagonal(a, axis1=-1, axis2=-2),
        softplus=lambda z: m.logaddexp(0.0, z),
        cholesky=linalg.cholesky,
        solve=linalg.solve,
    )
    return namespace, import_module("autograd").value_and_grad


def _jax(compiled: bool) -> tuple[Any, Callable[[Function], Any]]:
    jax: Any = import_module("jax")
    m = jax.numpy
    namespace = SimpleNamespace(
        exp=m.exp, log=m.log, sum=m.sum, diagonal=m.diagonal, softplus=jax.nn.softplus,
        cholesky=m.linalg.cholesky,
        solve=lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True),
    )  # fmt: skip

    def both(f: Function) -> Any:
        step = jax.jit(jax.value_and_grad(f))

        def found(x: Any) -> Any:
            y, g = step(x)
            return float(y), np.asarray(g)

        return found

    return namespace, both


def _torch(compiled: bool) -> tuple[Any, Callable[[Function], Any]]:
    torch: Any = import_module("torch")
    zero = torch.zeros((), dtype=torch.float64)
    namespace = SimpleNamespace(
        exp=torch.exp, log=torch.log, sum=torch.sum, diagonal=torch.diagonal,
        softplus=lambda z: torch.logaddexp(zero, z), cholesky=torch.linalg.cholesky,
        solve=lambda a, b: torch.linalg.solve_triangular(a, b, upper=False),
        from_numpy=torch.from_numpy,
    )  # fmt: skip

    def both(f: Function) -> Any:
        def found(x: Any) -> Any:
            at = torch.tensor(x, requires_grad=True)
            y = f(at)
            return y.item(), torch.autograd.grad(y, at)[0].numpy()

        return found

    return namespace, both


LIBRARIES = {"tinygen": _tinygen, "autograd": _autograd, "jax": _jax, "torch": _torch}


def _in_float64(library: str) -> AbstractContextManager[Any]:
    """JAX computes in float64 inside; the others do so with what they are given."""
    if library != "jax":
        return nullcontext()
    jax: Any = import_module("jax")
    where = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")
    return where.enable_x64(True)


def _value_and_gradient(library: str, compiled: bool, name: str, arrays: Case) -> Any:
    """What SciPy is given: x to (value, gradient)."""
    m, both = LIBRARIES[library](compiled)
    convert, f = getattr(m, "from_numpy", lambda a: a), PROBLEMS[name].f
    data = {key: convert(array) for key, array in arrays.items() if key != "x0"}
    return both(lambda x: f(m, x, data))


def _solve(f: Any, name: str, arrays: Case) -> Any:
    return optimize.minimize(f, arrays["x0"], jac=True, method=PROBLEMS[name].method)


def opened(library: str, name: str, arrays: Case, compiled: bool) -> Opened:
    """A problem in a library's hands; results are value and gradient at the start and near it."""
    with _in_float64(library):
        f = _value_and_gradient(library, compiled, name, arrays)

    def results() -> Case:
        found: Case = {}
        for where, x in (("start", arrays["x0"]), ("near", arrays["x0"] + 0.1)):
            with _in_float64(library):
                y, g = f(x)
            found |= {f"{where}/value": np.asarray(y), f"{where}/gradient": np.asarray(g)}
        return found

    def run(tick: Tick) -> None:
        with _in_float64(library):
            while True:
                tick()
                _solve(f, name, arrays)

    return Opened(results, run)


def first(library: str, compiled: str, name: str, path: str) -> None:
    """Print the seconds from before the import to the end of the first solution. NumPy and SciPy are
    imported, and the data are at hand."""
    arrays = dict(np.load(path))
    begin = time.perf_counter()
    with _in_float64(library):
        _solve(_value_and_gradient(library, compiled == "compiled", name, arrays), name, arrays)
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    first(*sys.argv[1:])
