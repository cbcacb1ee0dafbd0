"""Logistic regression of handwritten digits: `tg.scipy.minimize` and a dict of parameters."""

import numpy as np

import tinygen as tg
from tinygen import data

digits = data.load("digits")
penalty = 1e-3


def loss(parameters, x, y):
    """The mean cross-entropy in nats, and a penalty on the weights. It is strictly convex in them."""
    logits = x @ parameters["weight"] + parameters["bias"]
    errors = tg.softmax_cross_entropy(logits, y, reduction="mean")
    return errors + penalty * (parameters["weight"] ** 2).sum()


start = {"weight": np.zeros((64, 10)), "bias": np.zeros(10)}
fit = tg.scipy.minimize(loss, start, args=(digits.x, digits.y), method="L-BFGS-B", tol=1e-12)
weight, bias = fit.x["weight"], fit.x["bias"]
print(f"{fit.nit} iterations, loss {fit.fun:.5f} nats")
print(
    f"held-out digits read: {np.mean((digits.test @ weight + bias).argmax(1) == digits.y_test):.1%}"
)

# Known: the derivative, written by hand, is 0 at the minimum. For the bias it says that the mean
# probability of each class is its frequency in the data.
logits = digits.x @ weight + bias
p = np.exp(logits - logits.max(1, keepdims=True))
p /= p.sum(1, keepdims=True)
residual = p - np.eye(10)[digits.y]
by_hand = digits.x.T @ residual / len(digits.x) + 2 * penalty * weight
print(f"the frequencies of the classes are met within {abs(residual.mean(0)).max():.1e}")
assert abs(by_hand).max() < 1e-4 and abs(residual.mean(0)).max() < 1e-4
