"""Leaves, comparisons of Tensors, and operations that leave the registry again."""

from __future__ import annotations

from contextlib import contextmanager

from tests.support.on_device import np, tg
from tinygen.autodiff.engine import REGISTRY
from tinygen.backend import raw_forms, vocabulary


def leaf(values, dtype=np.float64, name=None):
    return tg.tensor(values, requires_grad=True, dtype=dtype, name=name)


def equal(t, expected):
    assert isinstance(t, tg.Tensor)
    np.testing.assert_array_equal(t.data, expected)


@contextmanager
def temporary_operation(name, forward, **options):
    """An operation that leaves the registry again."""
    forward.__name__ = name
    try:
        yield tg.operation(**options)(forward)
    finally:
        del REGISTRY[name], raw_forms[name], vars(vocabulary)[name]
