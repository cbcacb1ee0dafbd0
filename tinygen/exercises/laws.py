"""What each exercise is held to: sentences, and calls of the student's functions that test them.

First what a law may ask of these functions, then the laws, in the order of the exercises.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from math import log, pi, sqrt
from typing import Any

import numpy as np
from scipy.special import ndtri

from tinygen import ops
from tinygen.autodiff import gradgradcheck, gradients, jacobian, tensor
from tinygen.autodiff.engine import Operation, Tensor
from tinygen.distributions import Categorical, Normal, js_divergence, kl_divergence
from tinygen.models.diffusion import add_noise, linear_schedule


class Broken(Exception):
    """A law does not hold. The message has the input and the two values."""


def require(true: Any, problem: str) -> None:
    """Broken with this problem, unless it is true."""
    if not true:
        raise Broken(problem)


def close(found: Any, right: Any, what: str, within: float = 1e-8) -> None:
    """Broken, unless `found` has the shape and the values of `right`. `what` names it.

    within: the tolerance, relative to values above 1.
    """
    found, right = _numbers(found, what), _numbers(right, what)
    shapes = f"{what} has the shape {found.shape}, the right shape is {right.shape}"
    require(found.shape == right.shape, shapes)
    off = ~(abs(found - right) <= within * np.maximum(1, abs(right)))  # NaN is off
    for at in map(tuple, np.argwhere(off)[:1].tolist()):
        place = f" at {list(at)}" * bool(at)
        raise Broken(f"{what} is {found[at]:.7g}{place}, the right value is {right[at]:.7g}")


def parts(value: Any, n: int, what: str) -> Any:
    """`value`, a tuple or list of n things. Broken if it is something else."""
    fits = isinstance(value, (tuple, list)) and len(value) == n
    require(fits, f"{what} is {_shown(value)}, not {n} things: return them as a, b, ...")
    return value


def connected(value: Any, what: str) -> Any:
    """`value`, a Tensor in a graph. Broken if it is something else."""
    in_graph = isinstance(value, Tensor) and value.requires_grad
    require(in_graph, f"no gradient flows back through {what}: use tinygen's operations")
    return value


class Function:
    """A function of the student's file. It may change its arguments: they are copies."""

    def __init__(self, name: str, function: Any) -> None:
        require(callable(function), f"the file has no function {name}")
        self.name, self.function = name, function

    def __call__(self, *args: Any) -> Any:
        """What it returns. Broken if that is nothing."""
        value = self.function(*(a.copy() if isinstance(a, np.ndarray) else a for a in args))
        require(value is not None, f"{self.name} returned None: has it a return line?")
        return value

    def gives(self, right: Any, *args: Any, within: float = 1e-8) -> None:
        """Broken, unless the call gives what is right."""
        close(self(*args), right, f"{self.name}({', '.join(map(_shown, args))})", within)


class Functions:
    """The functions of a student's file, as attributes."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Function:
        return Function(name, self._names.get(name))


def _numbers(value: Any, what: str) -> Any:
    """The value as a float array. Broken if it is not made of real numbers."""
    try:
        array = np.asarray(value.data if isinstance(value, Tensor) else value)
    except ValueError:  # a ragged list
        array = np.array("")
    require(array.dtype.kind in "biuf", f"{what} is {_shown(value)}, not real numbers")
    return array.astype(float)


def _shown(value: Any) -> str:
    """A value in few letters."""
    value = value.data if isinstance(value, Tensor) else value
    if isinstance(value, np.ndarray):
        return str(value.round(4).tolist() if value.size < 5 else f"array{list(value.shape)}")
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."


Law = Callable[[Functions], None]

LAWS: dict[int, list[tuple[str, Law]]] = {}
"""By the number of the exercise: sentences, and functions that raise Broken if they do not hold."""


def law(exercise: int, sentence: str) -> Callable[[Law], None]:
    """Enter the decorated function as a law."""
    return lambda holds: LAWS.setdefault(exercise, []).append((sentence, holds))


def normals(*shape: int) -> Any:
    """The same draws from N(0, 1) each time."""
    return np.random.default_rng(0).normal(size=shape)


def log_normal(x: Any, mean: Any, variance: Any) -> Any:
    """log N(x; mean, variance)."""
    return -0.5 * (np.log(2 * pi * variance) + (x - mean) ** 2 / variance)


# -- the engine ----------------------------------------------------------------------------------
@law(1, "tanh_rule is g times the slope of tanh")
def _(f: Functions) -> None:
    f.tanh_rule.gives(3 / np.cosh(0.5) ** 2, 3.0, np.tanh(0.5))


@law(1, "divide_rule is g times the slope of a / b in b")
def _(f: Functions) -> None:
    f.divide_rule.gives(-3.75, 3.0, 5.0, 2.0)


@law(1, "tinygen's gradgradcheck passes: tanh_rule works on Tensors too")
def _(f: Functions) -> None:
    operation = Operation(lambda m, x: m.tanh(x), {"x": lambda g, y: f.tanh_rule(g, y)})

    def tanh(x: Any) -> Any:
        return operation.apply((x,), {})

    try:
        gradgradcheck(tanh, [normals(3)])
    except AssertionError as error:
        raise Broken(str(error)) from None


@law(2, "A bias that was added to three rows gets the sum of three rows")
def _(f: Functions) -> None:
    f.unbroadcast.gives([3.0], np.ones((3, 1)), (1,))


@law(
    2,
    "Σ d · (x broadcast) = Σ unbroadcast(d) · x for every x, and shapes are equal",
)
def _(f: Functions) -> None:
    d = normals(3, 4)
    for shape in ((3, 4), (4,), (3, 1), (1, 4), (1, 1), (1,), ()):
        x, found = np.asarray(normals(*shape)), f.unbroadcast(d, shape)
        what = f"d of shape (3, 4), x of shape {shape}: unbroadcast(d)"
        require(np.shape(found) == shape, f"{what} has the shape {np.shape(found)}")
        close(np.sum(found * x), np.sum(d * x), f"{what}: Σ unbroadcast(d) · x")


Graph = dict[str, list[tuple[str, float]]]
TWICE: Graph = {"y": [("a", 1.0), ("a", 1.0)], "a": []}
WAITING: Graph = {"y": [("b", 2.0), ("c", 3.0)], "b": [("a", 7.0)], "c": [("b", 5.0)], "a": []}


def chain(n: int, uses: int) -> Graph:
    """A node x_n and those before it. Each uses the one before so many times, at a slope of 1."""
    return {f"x{i}": [(f"x{i - 1}", 1 / uses)] * uses * (i > 0) for i in range(n + 1)}


@law(3, "The order has each node that the root needs once, before its inputs")
def _(f: Functions) -> None:
    for graph, right in ((TWICE, "ya"), (WAITING | {"z": [("y", 1.0)]}, "ycba")):
        found = [*islice(f.order("y", graph), 9)]  # it may be endless
        require(found == [*right], f"from 'y' in {graph}: {found}, the right order is {[*right]}")


@law(3, "y = a + a has the derivative 2 in a")
def _(f: Functions) -> None:
    close(f.gradients("y", TWICE)["a"], 2.0, "the derivative")


@law(3, "A node waits until all who use it have added to its gradient")
def _(f: Functions) -> None:
    close(f.gradients("y", WAITING)["a"], 119.0, f"the derivative of y in a in {WAITING}")


@law(3, "A chain of 5,000 nodes works")
def _(f: Functions) -> None:
    close(f.gradients("x5000", chain(5000, 1))["x0"], 1.0, "the derivative in the first node")


@law(3, "60 nodes, each used twice by the next, are visited once, not 2^60 times")
def _(f: Functions) -> None:
    close(f.gradients("x60", chain(60, 2))["x0"], 1.0, "the derivative in the first node")


def of_network(position: int, name: str) -> None:
    @law(4, f"dL/d{name} is the gradient that tinygen's engine finds")
    def _(f: Functions) -> None:
        arrays = [normals(*shape) for shape in ((5, 3), (5, 2), (3, 4), (4,), (4, 2), (2,))]
        x, y, *parameters = arrays
        w1, b1, w2, b2 = leaves = [tensor(p, requires_grad=True) for p in parameters]
        right = gradients(ops.mse(ops.tanh(x @ w1 + b1) @ w2 + b2, y), leaves)
        found = parts(f.gradients(*arrays), 4, "what gradients returned")
        close(found[position], right[position], f"dL/d{name}")


for i, name in enumerate(("w1", "b1", "w2", "b2")):
    of_network(i, name)


# -- autoencoders and divergences ----------------------------------------------------------------
@law(5, "For numbers w = 2, b = 0, x = 0 the slope is 2/4, the penalty 1/4")
def _(f: Functions) -> None:
    f.penalty.gives([0.25], np.zeros((1, 1)), np.full((1, 1), 2.0), np.zeros(1))


@law(5, "It is the sum of the squares of the Jacobian that tinygen finds")
def _(f: Functions) -> None:
    x, w, b = normals(5, 3), normals(3, 2), normals(2)
    j = [jacobian(lambda row: ops.sigmoid(row @ w + b))(row) for row in x]
    f.penalty.gives([np.sum(a**2) for a in j], x, w, b)


@law(6, "It is 0 if the decoder puts out the clean rows")
def _(f: Functions) -> None:
    clean = normals(5, 3)
    found = f.loss(lambda x: x, lambda z: clean, clean, clean + 1)
    close(found, 0, "g(z) = the clean rows: the loss")


@law(6, "If nothing is removed, it is the mean over rows of ‖noise‖²")
def _(f: Functions) -> None:
    clean = normals(5, 3)
    found = f.loss(lambda x: x, lambda z: z, clean, clean + 2)
    close(found, 12, "rows of 3 numbers, noise 2, f(x) = x, g(z) = z: the loss")


@law(7, "KL(p ‖ p) is 0")
def _(f: Functions) -> None:
    f.kl.gives(0.0, 0.3, 0.5, 0.3, 0.5)


@law(7, "KL(p ‖ q) is the integral of p log(p/q), by quadrature")
def _(f: Functions) -> None:
    x = np.linspace(-12.0, 12.0, 4001)
    for m_p, s_p, m_q, s_q in ((0.0, 1.0, 0.0, 2.0), (0.3, 0.5, -1.0, 2.0)):
        log_p, log_q = log_normal(x, m_p, s_p**2), log_normal(x, m_q, s_q**2)
        right = np.sum(np.exp(log_p) * (log_p - log_q)) * (x[1] - x[0])
        f.kl.gives(right, m_p, s_p, m_q, s_q)


@law(7, "It works on arrays, as tinygen's kl_divergence")
def _(f: Functions) -> None:
    (m_p, m_q), (s_q, s_p) = normals(2, 9), np.exp(normals(2, 9))
    f.kl.gives(kl_divergence(Normal(m_p, s_p), Normal(m_q, s_q)), m_p, s_p, m_q, s_q)


@law(8, "Without a class in common JS is log 2, and not NaN")
def _(f: Functions) -> None:
    f.js.gives([log(2)], np.array([[0.4, 0.6, 0.0]]), np.array([[0.0, 0.0, 1.0]]))


@law(8, "It agrees with tinygen's js_divergence")
def _(f: Functions) -> None:
    p, q = np.random.default_rng(0).dirichlet(np.ones(4), (2, 20))
    f.js.gives(js_divergence(Categorical(np.log(p)), Categorical(np.log(q))), p, q)


# -- likelihoods and their bounds ----------------------------------------------------------------
@law(9, "If p(x|z) is the same for all z, it is p(x)")
def _(f: Functions) -> None:
    f.log_likelihood.gives(-2.0, np.full(4, -2.0), normals(4))


@law(9, "For z ~ N(0, 1) and x ~ N(z, 1) it is close to log N(x; 0, 2)")
def _(f: Functions) -> None:
    z, x = ndtri((np.arange(9999) + 0.5) / 9999), 0.7  # evenly drawn
    log_p_x_given_z, log_p_z = log_normal(x, z, 1), log_normal(z, 0, 1)
    f.log_likelihood.gives(log_normal(x, 0, 2), log_p_x_given_z, log_p_z, within=1e-3)


@law(9, "Likelihoods of e^-1000 do not vanish")
def _(f: Functions) -> None:
    f.log_likelihood.gives(-1000.0, np.full(3, -1000.0), np.zeros(3))


def elbo_beside_truth(f: Functions, mean: Any, log_var: Any) -> None:
    """For z ~ N(0, I) and x ~ N(z, 1/2), of which all is known.

    log p(x|z) is a square in z. So its mean over the two draws mean ± std is its exact expectation.
    """
    x, std = normals(3, 2), np.exp(0.5 * log_var)
    at_draws = np.stack([log_normal(x, z, 0.5).sum(-1) for z in (mean - std, mean + std)])
    gap = kl_divergence(Normal(mean, std), Normal(x / 1.5, sqrt(1 / 3))).data
    f.elbo.gives((log_normal(x, 0, 1.5) - gap).sum(-1), at_draws, mean, log_var)


@law(10, "If q is the posterior, the ELBO is log p(x)")
def _(f: Functions) -> None:
    elbo_beside_truth(f, normals(3, 2) / 1.5, np.full((3, 2), -log(3)))


@law(10, "For any q the ELBO is log p(x) - KL(q ‖ posterior), so at most log p(x)")
def _(f: Functions) -> None:
    elbo_beside_truth(f, *normals(2, 3, 2))


@law(11, "Noise of 0 gives the mean. Noise of 1 adds one standard deviation")
def _(f: Functions) -> None:
    for noise, right in ((0.0, 1.0), (1.0, 4.0)):
        f.draw.gives([right], tensor([1.0]), tensor([log(9)]), np.array([noise]))


@law(11, "The gradient is 1 in the mean, and ½ std · noise in log_var")
def _(f: Functions) -> None:
    leaves = [tensor([value], requires_grad=True) for value in (1.0, log(9))]
    found = gradients(connected(f.draw(*leaves, np.array([-2.0])), "z"), leaves)
    close(found[0], [1], "the gradient in mean")
    close(found[1], [-3], "std 3, noise -2: the gradient in log_var")


@law(12, "Equal weights, and one alone, have the bound log w, also if w is e^-1000")
def _(f: Functions) -> None:
    for k in (1, 3):
        f.bound.gives([-1000.0, 2.0], np.tile([-1000.0, 2.0], (k, 1)))


@law(12, "Jensen: two draws have a bound above the mean of their log w")
def _(f: Functions) -> None:
    found = np.ravel(f.bound(np.array([[0.0], [2.0]])))[0]
    require(1 < found < 2, f"bound([[0], [2]]) is {found:.4g}, not between mean and maximum")


@law(12, "The bound of the weights 1, 2, 6 is log 3")
def _(f: Functions) -> None:
    f.bound.gives([log(3)], np.log([[1.0], [2.0], [6.0]]))


@law(12, "The normalised weights of each row of x are its w / Σ w, also if w is e^-1000")
def _(f: Functions) -> None:
    f.normalised.gives([[0.25, 0.5], [0.75, 0.5]], np.log([[1, 2], [3, 2]]) - [1000, 0])


# -- GAN -----------------------------------------------------------------------------------------
def logits(*values: float) -> Any:
    return tensor(np.array(values, float)[:, None], requires_grad=True)


@law(13, "If D cannot tell, with logits of 0, it loses 2 log 2, and G log 2")
def _(f: Functions) -> None:
    f.discriminator_loss.gives(2 * log(2), logits(0, 0), logits(0))
    f.generator_loss.gives(log(2), logits(0, 0))


@law(13, "The best D has the loss log 4 - 2 JS(data, samples)")
def _(f: Functions) -> None:
    # Data (3/4, 1/4) and samples (1/4, 3/4) of two classes; their mixture is (1/2, 1/2).
    js, l = 0.75 * log(1.5) + 0.25 * log(0.5), log(3)
    f.discriminator_loss.gives(log(4) - 2 * js, logits(l, l, l, -l), logits(l, -l, -l, -l))


@law(13, "Where D is certain that samples are fake, G has the gradient -1")
def _(f: Functions) -> None:
    fake = logits(-30)
    loss = connected(f.generator_loss(fake), "the loss")
    close(gradients(loss, fake), [[-1]], "logit -30: the gradient of G's loss in it")


@law(13, "Logits of ±1000 do not overflow")
def _(f: Functions) -> None:
    f.discriminator_loss.gives(2000, logits(-1000), logits(1000))
    f.generator_loss.gives(1000, logits(-1000))


@law(14, "For D(x) = w · x it is ½ ‖w‖², for any number of rows")
def _(f: Functions) -> None:
    for n in (1, 5):
        close(f.r1(lambda x: x @ [[3.0], [4.0]], normals(n, 2)), 12.5, f"w = (3, 4), rows: {n}: R1")


@law(14, "It has a derivative in D's parameters: for D(x) = w · x this is w")
def _(f: Functions) -> None:
    w = tensor([[3.0], [4.0]], requires_grad=True)
    found = connected(f.r1(lambda x: x @ w, normals(5, 2)), "R1")
    close(gradients(found, w), w, "w = (3, 4): the gradient of R1 in w")


# -- diffusion -----------------------------------------------------------------------------------
NOISE = linear_schedule(40)
M, V = 0.5, 0.25  # mean and variance of normal data, for which the best estimate of ε is known


def best(x: Any, abar: Any) -> Any:
    """E[ε | x_t] for the normal data."""
    return np.sqrt(1 - abar) * (x - np.sqrt(abar) * M) / (abar * V + 1 - abar)


@law(15, "β = 0.1, 0.2 gives abar = 1, 0.9, 0.72")
def _(f: Functions) -> None:
    f.abar.gives([1, 0.9, 0.72], np.array([0.1, 0.2]))


@law(15, "It agrees with tinygen's NoiseSchedule")
def _(f: Functions) -> None:
    f.abar.gives(NOISE.abar, NOISE.beta[1:])


@law(16, "A step with a small β leaves almost all of x")
def _(f: Functions) -> None:
    f.step.gives([sqrt(0.9999)], np.ones(1), 1e-4, np.zeros(1))


@law(16, "40 steps without noise shrink x as one jump does")
def _(f: Functions) -> None:
    x = ones = np.ones((1, 1))
    for beta in NOISE.beta[1:]:
        x = f.step(x, beta, 0 * ones)
    f.jump.gives(x, ones, NOISE.abar[-1:], 0 * ones)


@law(16, "Each row of a jump has its own abar_t, as in tinygen's add_noise")
def _(f: Functions) -> None:
    (x0, noise), abar = normals(2, 3, 4), np.array([0.9, 0.5, 0.0])
    f.jump.gives(add_noise(x0, noise, abar), x0, abar, noise)


@law(17, "From t = 1 it goes to x_0 itself, without variance")
def _(f: Functions) -> None:
    found = parts(f.posterior(np.array(2.0), np.array(5.0), 0.1, 1.0), 2, "what it returned")
    close(found[0], 2, "x_0 = 2, x_1 = 5: the mean")
    close(found[1], 0, "x_0 = 2, x_1 = 5: the variance")


@law(17, "It is Bayes' rule: q(x_s|x_0) q(x_t|x_s), normalised on a grid")
def _(f: Functions) -> None:
    x, xt = np.linspace(-8, 8, 4001), np.array(-0.5)
    for x0, beta, abar in ((1.0, 0.3, 0.6), (-2.0, 0.05, 0.9)):
        w = np.exp(log_normal(x, sqrt(abar) * x0, 1 - abar))
        w *= np.exp(log_normal(xt, sqrt(1 - beta) * x, beta))
        mean = np.average(x, weights=w)
        found = parts(f.posterior(np.array(x0), xt, beta, abar), 2, "what it returned")
        where = f"x_0 = {x0}, x_t = {xt}, β_t = {beta}, abar_s = {abar}:"
        close(found[0], mean, f"{where} the mean", 1e-6)
        close(found[1], np.average((x - mean) ** 2, weights=w), f"{where} the variance", 1e-6)


@law(18, "ε is asked for at t = T, ..., 2, 1")
def _(f: Functions) -> None:
    times: list[int] = []

    def estimate(x: Any, t: int) -> Any:
        times.append(int(t))
        return 0 * x

    f.sample(estimate, normals(2, 3), normals(41, 2, 3), NOISE.beta, NOISE.abar)
    require(times == [*range(40, 0, -1)], f"T = 40: it was asked for at t = {times}")


@law(18, "For data N(0.5, 0.25) and the best ε, x_0 has the right variance and mean")
def _(f: Functions) -> None:
    # The chain is linear. So a row with a noise of 1 in one place alone shows what this noise does.
    x, z = np.zeros((42, 1)), np.zeros((41, 42, 1))
    x[41] = z[range(41), range(41)] = 1.0
    rows = f.sample(lambda x, t: best(x, NOISE.abar[t]), x, z, NOISE.beta, NOISE.abar)
    mean, variance = 0.0, 1.0
    for t in range(40, 0, -1):
        beta, abar = NOISE.beta[t], NOISE.abar[t]
        gain = (1 - beta / (abar * V + 1 - abar)) / sqrt(1 - beta)
        mean = gain * (mean - sqrt(abar) * M) + NOISE.signal[t - 1] * M
        variance = gain**2 * variance + beta * (t > 1)
    close(np.sum((rows[1:] - rows[0]) ** 2), variance, "T = 40: the variance of x_0")
    close(rows[0, 0], mean, "T = 40: the mean of x_0")


@law(19, "If ε is perfect, x_s is made of the same x_0 and the same ε")
def _(f: Functions) -> None:
    x0, noise = normals(2, 3, 2)
    for abar_t, abar_s in ((0.2, 0.7), (0.3, 0.3), (0.5, 1.0)):
        xs, xt = add_noise(x0, noise, abar_s), add_noise(x0, noise, abar_t)
        f.step.gives(xs, xt, noise, abar_t, abar_s)


@law(19, "40 steps take x_T of normal data near the x_0 that the exact flow leads to")
def _(f: Functions) -> None:
    x, abar = normals(4, 1), NOISE.abar
    right = M + sqrt(V / (abar[-1] * V + 1 - abar[-1])) * (x - sqrt(abar[-1]) * M)
    for t in range(40, 0, -1):
        x = f.step(x, best(x, abar[t]), abar[t], abar[t - 1])
    close(x, right, "data N(0.5, 0.25): x_0", 0.1)


@law(20, "For data at one point x_0 it is the slope of log N(sqrt(abar) x_0, 1 - abar)")
def _(f: Functions) -> None:
    x0, noise = normals(2, 1, 2)
    xt = add_noise(x0, noise, 0.2)
    f.score.gives((sqrt(0.2) * x0 - xt) / 0.8, noise, 0.2)


@law(20, "With the score of one point, the estimate of x_0 is this point")
def _(f: Functions) -> None:
    x0, noise = normals(2, 1, 2)
    f.denoised.gives(x0, add_noise(x0, noise, 0.2), -noise / sqrt(0.8), 0.2)
