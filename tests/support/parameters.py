"""Parameters of many shapes, their values, and comparisons."""

from tests.support.on_device import np, tg

SHAPES = {"matrix": (3, 4), "one": (1,), "number": (), "vector": (7,), "empty": (0, 2)}


def parameters(shapes=SHAPES, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: tg.tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
        for name, shape in shapes.items()
    }


def values(params):
    return {name: p.data.copy() for name, p in params.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
