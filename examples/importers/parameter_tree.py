"""A tree of parameters through `tg.scipy.minimize`: sums of Gaussian peaks on a baseline."""

from typing import NamedTuple

import numpy as np

import tinygen as tg


class Peak(NamedTuple):
    """A peak's height, its place, and the logarithm of its width."""

    height: float
    place: float
    log_width: float


def spectrum(parameters, x):
    """A baseline a + b x, and the peaks, at the places x."""
    total = parameters["baseline"][0] + parameters["baseline"][1] * x
    for peak in parameters["peaks"]:
        total = total + peak.height * tg.exp(
            -0.5 * ((x - peak.place) * tg.exp(-peak.log_width)) ** 2
        )
    return total


def error(parameters, x, y):
    return tg.mse(spectrum(parameters, x), y, reduction="sum")


x = np.linspace(0, 10, 200)
truth = {
    "baseline": np.array([0.5, 0.1]),
    "peaks": [Peak(3.0, 3.0, np.log(0.5)), Peak(2.0, 6.5, np.log(1.0))],
}
start = {"baseline": np.zeros(2), "peaks": [Peak(2.0, 2.5, 0.0), Peak(2.0, 7.0, 0.0)]}
y = spectrum(truth, x).numpy()

for method in ("BFGS", "Newton-CG", "trust-exact"):
    fit = tg.scipy.minimize(error, start, args=(x, y), method=method)
    wrong = tg.tree_map(lambda a, b: float(abs(a - b).max()), fit.x, truth)
    heights = ", ".join(f"{peak.height:.3f} at {peak.place:.3f}" for peak in fit.x["peaks"])
    print(f"{method}: {fit.nit} iterations, peaks of {heights}")
    assert fit.x["peaks"][0]._fields == Peak._fields
    assert max(wrong["baseline"], *wrong["peaks"][0], *wrong["peaks"][1]) < 1e-3, wrong

# With noise of a known size the covariance of the estimate is that of least squares, (JᵀJ)⁻¹ σ². The
# Jacobian of the curve comes as a tree as well: a block for each parameter.
blocks = tg.jacobian(spectrum)(truth, x)
columns = [blocks["baseline"], *(b[:, None] for peak in blocks["peaks"] for b in peak)]
jacobian, sigma, rng = np.concatenate(columns, axis=1), 0.05, np.random.default_rng(0)
deviations = sigma * np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
noisy = tg.scipy.minimize(error, truth, args=(x, y + sigma * rng.normal(size=200)), method="BFGS")
place, expected = noisy.x["peaks"][0].place, deviations[3]
print(f"place of the first peak in noise: {place:.4f} ± {expected:.4f}, in truth 3")
assert abs(place - 3.0) < 4 * expected

# The squared errors at the optimum are known: σ² times chi-square with 200 - 8 degrees of freedom.
assert abs(noisy.fun / sigma**2 - 192) < 4 * np.sqrt(2 * 192)
