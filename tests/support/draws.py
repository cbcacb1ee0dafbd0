"""Random arrays, each a function of its seed."""

from tests.support.on_device import np


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0, scale=1.0, dtype=np.float64):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def normals32(*shape, seed=0):
    return normals(*shape, seed=seed, dtype=np.float32)
