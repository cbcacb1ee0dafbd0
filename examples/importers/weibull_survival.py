"""A Weibull fit of survival times with censoring: second derivatives give the standard errors.

The times to remission of 21 leukaemia patients under 6-MP, in weeks; those that are censored (the
patient left, or the study ended) are known to be longer (Freireich et al. 1963).
"""

import numpy as np
from scipy.stats import CensoredData, weibull_min

import tinygen as tg

weeks = np.array(
    [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], dtype=float
)
seen = np.arange(21) < 9  # the others are censored


def negative_log_likelihood(theta):
    """theta: the logarithms of scale and shape. A time that was seen has the density, one that is
    censored the probability to be longer, exp(-(t/scale)^shape)."""
    shape = tg.exp(theta[1])
    z = np.log(weeks) - theta[0]
    log_hazard = theta[1] - theta[0] + (shape - 1.0) * z
    return tg.exp(shape * z).sum() - tg.where(seen, log_hazard, 0.0).sum()


fit = tg.scipy.minimize(negative_log_likelihood, np.log([20.0, 1.0]), method="trust-exact")
scale, shape = np.exp(fit.x)
covariance = np.linalg.inv(tg.hessian(negative_log_likelihood)(fit.x))  # observed information
error = np.sqrt(np.diag(covariance)) * np.exp(fit.x)  # the delta method
print(f"scale {scale:.2f} ± {error[0]:.2f} weeks, shape {shape:.3f} ± {error[1]:.3f}")
print(f"half of the patients are well for {scale * np.log(2) ** (1 / shape):.1f} weeks or longer")

# Known: the shape is the root of one equation, and with it the best scale has a formula. SciPy's own
# fit, which searches without derivatives, ends near the same two numbers.
power, log = weeks**shape, np.log(weeks)
assert abs(power @ log / power.sum() - 1 / shape - log[seen].mean()) < 1e-6
assert np.isclose(scale, (power.sum() / seen.sum()) ** (1 / shape), rtol=1e-6)
found = weibull_min.fit(CensoredData.right_censored(weeks, ~seen), floc=0)
np.testing.assert_allclose([shape, scale], [found[0], found[2]], rtol=1e-3)
