"""An implicit layer: its output is a root that SciPy finds, its derivative a rule of one's own.

z solves z = tanh(W z + x) (Bai et al. 2019). The solver is not differentiated: by the implicit function
theorem dz = (I - D W)⁻¹ D dx with D = diag(1 - z²), whatever way led to z. The rule is written with
functions that NumPy and tinygen share, so it has derivatives of every order itself.
"""

import numpy as np
from scipy.optimize import root

import tinygen as tg


def before(m, g, w, y):
    """The gradient before the tanh: u with u = D (g + Wᵀ u)."""
    d = (1.0 - y * y)[:, None]
    return m.solve(np.eye(len(y)) - d * m.swapaxes(w, 0, 1), d * g[:, None])[:, 0]


@tg.operation(
    x=lambda m, g, w, y: before(m, g, w, y),
    w=lambda m, g, w, y: before(m, g, w, y)[:, None] * y,
)
def equilibrium(m, x, w):
    """z (n,) with z = tanh(w @ z + x), for w (n, n) of a norm below 1, so that there is one."""
    found = root(
        lambda z: z - np.tanh(w @ z + x), np.zeros_like(x), tol=1e-13,
        jac=lambda z: np.eye(len(z)) - (1.0 - np.tanh(w @ z + x) ** 2)[:, None] * w,
    )  # fmt: skip
    return found.x


rng = np.random.default_rng(0)
w = rng.normal(size=(5, 5))
w *= 0.7 / np.linalg.norm(w, 2)
x, target = rng.normal(size=5), rng.uniform(-0.8, 0.8, size=5)


def loss(x, w):
    return ((equilibrium(x, w) - target) ** 2).sum()


def unrolled(x, w):
    """The same by 200 steps of the iteration, all of them differentiated."""
    z = np.zeros(5)
    for _ in range(200):
        z = tg.tanh(w @ z + x)
    return ((z - target) ** 2).sum()


for name, transform in (("gradients", lambda f: tg.grad(f, (0, 1))), ("Hessian", tg.hessian)):
    implicit, by_steps = transform(loss)(x, w), transform(unrolled)(x, w)
    print(f"{name}, by the rule and through 200 steps: the same to 10 digits")
    for a, b in zip(implicit, by_steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)

# The input for which the equilibrium is the target is known: arctanh(target) - W target.
fit = tg.scipy.minimize(loss, x, args=(w,), method="BFGS", tol=1e-12)
exact = np.arctanh(target) - w @ target
print(f"input for a given equilibrium: within {abs(fit.x - exact).max():.1e} of the exact one")
np.testing.assert_allclose(fit.x, exact, atol=1e-4)
