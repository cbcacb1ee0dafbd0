"""An operation of one's own, with a second derivative: the Lambert W function of SciPy.

W(x) solves W e^W = x. From W' = 1 / (e^W (1 + W)) follow all derivatives, because a rule is written with
functions that NumPy and tinygen share: tinygen differentiates the rule.
"""

import numpy as np
from scipy.special import lambertw

import tinygen as tg


@tg.operation(x=lambda m, g, y: g / (m.exp(y) * (1.0 + y)))
def lambert(m, x):
    """The principal branch of Lambert's W, for x above -1/e."""
    return lambertw(x).real


x = np.array([-0.2, 0.1, 1.0, np.e, 10.0])
w = lambertw(x).real
first = tg.grad(lambda x: lambert(x).sum())
second = tg.grad(lambda x: first(x).sum())
third = tg.grad(lambda x: second(x).sum())
print("W   ", w)
print("W'  ", first(x))
print("W'' ", second(x))

# Known: W(e) = 1; and the derivatives of every order (Corless et al. 1996, eq. 3.5).
np.testing.assert_allclose(lambert(x).numpy()[3], 1.0)
e = np.exp(-w)
np.testing.assert_allclose(first(x), e / (1 + w))
np.testing.assert_allclose(second(x), -(e**2) * (2 + w) / (1 + w) ** 3)
np.testing.assert_allclose(third(x), e**3 * (9 + 8 * w + 2 * w**2) / (1 + w) ** 5)
assert tg.gradgradcheck(lambert, [x])

# So Newton's method works on it: the x with W(x) = 2 is 2 e².
found = tg.scipy.minimize(lambda x: (lambert(x) - 2.0) ** 2, 10.0, method="trust-exact", tol=1e-12)
print(f"W(x) = 2 at x = {found.x:.6f}; 2 e² is {2 * np.e**2:.6f}")
np.testing.assert_allclose(found.x, 2 * np.e**2, rtol=1e-6)
