"""Tensor as an array: among NumPy's arrays, as a container, compared, printed and copied."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy
import pytest

from tests.support.on_device import np, tg
from tests.support.tensors import equal, leaf
from tinygen.autodiff.array_face import METHODS

# -- NumPy beside and on the left of a Tensor -----------------------------------------------------------
OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.lt,
    operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip


@pytest.mark.parametrize("f", OPERATORS)
@pytest.mark.parametrize(
    "other",
    [2, 2.0, np.float64(2.0), np.float32(2.0), np.int64(2), np.array(2.0), np.array([2.0, 3.0]),
     np.array([[2.0], [3.0]]), tg.tensor([2.0, 3.0])],
    ids=repr,
)  # fmt: skip
def test_numpy_on_either_side(f, other):
    x = leaf([1.5, 3.0])
    number = other.data if isinstance(other, tg.Tensor) else other
    for y, expected in ((f(x, other), f(x.data, number)), (f(other, x), f(number, x.data))):
        assert type(y) is tg.Tensor
        np.testing.assert_allclose(y.data, expected, rtol=1e-15)
        assert y.dtype == expected.dtype
        assert y.requires_grad == (y.dtype == np.float64)


def test_matrix_products_with_arrays_on_the_left():
    a, x = np.arange(6.0).reshape(2, 3), leaf([1.0, 2.0, 3.0])
    y = a @ x
    assert type(y) is tg.Tensor
    equal(y, a @ x.data)
    equal(tg.gradients(y.sum(), x), a.sum(0))
    equal(x @ a.T, x.data @ a.T)


def test_an_array_on_the_left_does_not_absorb_a_tensor():
    array, x = np.ones(2), leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"cut the graph.*detach|Unsupported type"):  # CuPy's own
        array += x
    np.testing.assert_array_equal(array, [1.0, 1.0])


@pytest.mark.cpu_only("CuPy asks no other operand here")
def test_an_array_takes_a_constant_in_place():
    array, c = np.ones(2), tg.tensor([1.0, 2.0])
    same = array
    array -= c
    array *= 2.0 * c
    assert array is same
    np.testing.assert_array_equal(array, [0.0, -4.0])
    assert np.exp(c, out=array) is array
    np.testing.assert_array_equal(array, np.exp(c.data))
    with pytest.raises(TypeError, match=r"np\.add"):
        np.add(array, array, out=c)
    w = leaf(np.array([1.0, 2.0], np.float32), np.float32)
    (w * w).sum().backward()
    w.data -= 0.25 * w.grad  # as the message of `w -= ...` advises
    equal(w, [0.5, 1.0])
    assert w.dtype == np.float32 and w.is_leaf


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: numpy.exp(t), "exp"),
        (lambda t: numpy.maximum(t, 0.0), "maximum"),
        (lambda t: numpy.add(1.0, t, where=True), "add"),
        (lambda t: numpy.add.reduce(t), "add"),
        (lambda t: numpy.sum(t), "sum"),
        (lambda t: numpy.mean(t), "mean"),
        (lambda t: numpy.concatenate([t, t]), "concatenate"),
        (lambda t: numpy.where(t, t, 0.0), "where"),
        (lambda t: numpy.stack([t, numpy.ones(2)]), "stack"),
        (lambda t: numpy.linalg.solve(t, t), "linalg.solve"),
    ],
)
def test_numpy_functions_name_tinygens(call, name):
    x = leaf([1.0, 2.0])
    for t in (x, x * 2.0):
        with pytest.raises(TypeError, match=rf"np\.{name} .*tg\.{name.split('.')[-1]}\b.*detach"):
            call(t)


@pytest.mark.cpu_only("NumPy takes no arrays of the GPU")
@pytest.mark.parametrize(
    "call",
    [
        lambda t: numpy.exp(t),
        lambda t: numpy.isfinite(t),
        lambda t: numpy.add.reduce(t, axis=0),
        lambda t: numpy.shape(t),
        lambda t: numpy.argmax(t, axis=1),
        lambda t: numpy.allclose(t, t),
        lambda t: numpy.concatenate([t, numpy.zeros((1, 2))]),
        lambda t: numpy.block([[t, t], [t, t]]),
        lambda t: numpy.linalg.inv(t),
        lambda t: numpy.percentile(t, q=t[0, 0]),
        lambda t: numpy.array_equal(t, t),
    ],
)
def test_numpy_functions_take_constants(call):
    """Nothing is cut there. The results are NumPy's own."""
    t = tg.tensor([[1.0, 2.0], [-3.0, 5.0]])
    found, expected = call(t), call(t.numpy())
    assert type(found) is type(expected)
    numpy.testing.assert_array_equal(found, expected)


@pytest.mark.cpu_only("files of NumPy's")
def test_numpy_saves_constants(tmp_path):
    t, x = tg.tensor([1.0, 2.0]), leaf([1.0, 2.0])
    numpy.save(tmp_path / "t.npy", t)
    numpy.savez(tmp_path / "t.npz", t=t, more=numpy.ones(1))
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "t.npy"), t.numpy())
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "t.npz")["t"], t.numpy())
    for call in (
        lambda: numpy.save(tmp_path / "x.npy", x),
        lambda: numpy.savez(tmp_path / "x.npz", t=t, x=x),
        lambda: numpy.allclose(t, x),
        lambda: numpy.block([[t, t], [t, x]]),
        lambda: numpy.exp(t, where=x),
    ):
        with pytest.raises(TypeError, match=r"cut the graph.*detach"):
            call()


@pytest.mark.cpu_only("NumPy takes no arrays of the GPU")
def test_numpy_functions_write_into_no_tensor():
    t, a = tg.tensor([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))
    for call in (
        lambda: numpy.copyto(t, a),
        lambda: numpy.fill_diagonal(t, 0.0),
        lambda: numpy.exp(a, out=t),
        lambda: numpy.mean(a, axis=0, out=t[0]),
        lambda: numpy.put_along_axis(t, numpy.array([[0]]), 0.0, 0),
    ):
        with pytest.raises(
            TypeError, match=r"np\.\w+: a Tensor is not changed in place.*tg\.where"
        ):
            call()
    equal(t, [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="read-only"):
        numpy.ravel(t)[0] = 5.0
    t.data[0, 0] = 7.0  # its own array may be written to as before


@pytest.mark.cpu_only("conversions to NumPy")
def test_a_list_of_tensors_never_becomes_an_object_array():
    x, c = leaf([1.0, 2.0]), tg.tensor([1.0, 2.0])
    for bad in ([x, x], [x[0], x[1]], [leaf(1.0), leaf(2.0)]):
        with pytest.raises(TypeError, match="cut the graph"):
            np.array(bad)
    with pytest.raises(TypeError, match="detach"):
        np.asarray(x)
    assert np.array([c, c]).dtype == np.float64 and np.array([c, c]).shape == (2, 2)
    assert np.array([c[0], c[1]]).dtype == np.float64
    assert np.asarray(c) is c.data
    assert np.array(c) is not c.data and not np.shares_memory(np.array(c), c.data)
    assert np.asarray(c, np.float32).dtype == np.float32
    assert tg.stack([x, x]).shape == (2, 2)


@pytest.mark.cpu_only("conversions to NumPy")
def test_numpy_without_a_copy_is_without_a_copy():
    c = tg.tensor([1.0, 2.0])
    assert np.array(c, copy=False) is c.data
    if int(np.__version__.split(".")[0]) >= 2:
        with pytest.raises(ValueError, match="copy"):
            np.array(c, np.float32, copy=False)
    else:  # there it means: only if needed
        assert np.array(c, np.float32, copy=False).dtype == np.float32
    assert np.array(c, np.float32, copy=True).dtype == np.float32


@pytest.mark.cpu_only("another library on the CPU")
def test_another_library_gets_no_negative_strides():
    """PyTorch ends the process on them."""
    t = tg.tensor([[1.0, 2.0], [3.0, 4.0]])
    for view in (tg.flip(t), t[:, ::-1], tg.flip(t, 0)):
        array = np.from_dlpack(view)
        assert min(array.strides) > 0
        np.testing.assert_array_equal(array, view.data)
    assert np.shares_memory(np.from_dlpack(t.T), t.data)
    with pytest.raises(BufferError, match="copy"):
        tg.flip(t).__dlpack__(copy=False)


def test_containers_and_numbers():
    x = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert len(x) == 3 and x.shape == (3, 2) and x.ndim == 2 and x.size == 6
    rows = list(x)
    assert len(rows) == 3 and all(type(r) is tg.Tensor and r.requires_grad for r in rows)
    (rows[1] * 2.0).sum().backward()
    equal(x.grad, [[0.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
    a, b = tg.tensor([7, 8])
    assert int(a) == 7 and float(b) == 8.0 and [10, 20, 30][tg.tensor(1)] == 20
    assert range(5)[tg.tensor(2)] == 2
    assert bool(tg.tensor(1.0)) and not tg.tensor([0.0]) and x[0, 0] < x[0, 1]
    assert tg.tensor([[2.5]]).item() == 2.5 and type(tg.tensor(2.5).item()) is float
    assert type(tg.tensor(2).item()) is int and type(tg.tensor(True).item()) is bool


def test_what_a_tensor_refuses_to_be():
    x, s = leaf([1.0, 2.0]), leaf(1.0)
    for call in (lambda: bool(x), lambda: float(x), lambda: int(x), x.item):
        with pytest.raises(ValueError, match=r"\(2,\)"):
            call()
    with pytest.raises(ValueError, match="ambiguous"):
        assert x > 0
    for call in (lambda: len(s), lambda: iter(s), lambda: list(s)):
        with pytest.raises(TypeError, match="0-d"):
            call()
    with pytest.raises(TypeError):
        [1, 2][s]  # a float is not an index


def test_writing_in_place_names_the_alternative():
    x = leaf([1.0, 2.0])
    for t in (x, x * 2.0, tg.tensor([1.0])):
        with pytest.raises(TypeError, match=r"tg\.where"):
            t[0] = 5.0
    for symbol in "+-*/":
        with pytest.raises(TypeError, match=rf"x = x \{symbol} y.*x\.data \{symbol}="):
            exec(f"x {symbol}= 1.0", {"x": x})
    equal(x, [1.0, 2.0])


def test_a_running_total_works():
    x = leaf([1.0, 2.0])
    total = tg.tensor(0.0)
    for k in range(1, 4):
        before = total
        total += (x * k).sum()
        assert total is not before
    total /= 2.0
    total *= 4.0
    total -= 1.0
    assert total.item() == 35.0
    total.backward()
    equal(x.grad, [12.0, 12.0])
    assert tg.tensor(0.0).item() == 0.0


def test_tensors_are_keys_by_identity():
    x, y = leaf([1.0]), leaf([1.0])
    table = {x: "x", y: "y"}
    assert table[x] == "x" and table[y] == "y" and len({x, x, y}) == 2


# -- leaves and constants ----------------------------------------------------------------------------
def test_detach_cuts_the_graph_and_shares_the_values():
    x = leaf([1.0, 2.0])
    d = (x * 2.0).detach()
    assert not d.requires_grad
    assert x.detach().data is x.data and (x.numpy() is x.data) == (x.device == "cpu")
    y = (x * x.detach()).sum()
    equal(tg.gradients(y, x), [1.0, 2.0])


def test_comparisons_are_constants():
    x = leaf([1.0, 3.0])
    mask = x > 2.0
    assert mask.dtype == bool and not mask.requires_grad
    equal(~mask, [True, False])
    equal(x == np.array([1.0, 0.0]), [True, False])
    for t in (x, tg.tensor([0, 1]), mask):
        equal(t == None, [False, False])  # noqa: E711
        equal(t != None, [True, True])  # noqa: E711
    with pytest.raises(TypeError, match="NoneType"):
        assert x < None


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (tg.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (leaf([1.0]), "tensor([1.], requires_grad=True)"),
        (leaf(1.0, np.float32), "tensor(1., dtype=float32, requires_grad=True)"),
        (leaf([1.0]) * 2.0, "tensor([2.], from multiply)"),
        (tg.tensor([1, 2]), "tensor([1, 2], dtype=int64)"),
        (tg.tensor(np.zeros((0, 3))), "tensor([], shape=(0, 3))"),
        (
            tg.tensor(np.zeros((7, 3))),
            "tensor([[0., 0., 0.],\n        [0., 0., 0.],\n        [0., 0., 0.],\n        ...,\n"
            "        [0., 0., 0.],\n        [0., 0., 0.],\n        [0., 0., 0.]], shape=(7, 3))",
        ),
    ],
)
@pytest.mark.cpu_only("a device in the text: test_devices.py")
def test_repr(t, text):
    assert repr(t) == text


# -- copies ------------------------------------------------------------------------------------------
def test_a_deep_copied_leaf_is_independent():
    x = leaf([1.0, 2.0], name="x")
    (x * 3.0).sum().backward()
    y = copy.deepcopy(x)
    assert y.is_leaf and y.name == "x" and y is not x
    assert not np.shares_memory(x.data, y.data) and not np.shares_memory(x.grad.data, y.grad.data)
    (y * y).sum().backward()
    equal(y.grad, [5.0, 7.0])  # 3 copied, 2y added
    equal(x.grad, [3.0, 3.0])
    y.data += 10.0
    equal(x, [1.0, 2.0])
    dx, dy = tg.gradients((x * y).sum(), [x, y])
    equal(dx, y.data)
    equal(dy, x.data)


def test_deepcopy_keeps_what_is_shared_shared():
    x = leaf([1.0])
    first, second = copy.deepcopy([x, x])
    assert first is second and first is not x
    constant = copy.deepcopy(tg.tensor([1.0], dtype=np.float32))
    assert not constant.requires_grad and constant.dtype == np.float32


def test_pickle_round_trip():
    x = leaf(np.array([1.0, 2.0], np.float32), np.float32, name="weights")
    (x * x).sum().backward()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        y = pickle.loads(pickle.dumps(x, protocol))
        assert y.is_leaf and y.name == "weights" and y.dtype == np.float32
        equal(y, x.data)
        equal(y.grad, x.grad.data)
        (y * 2.0).sum().backward()
        equal(y.grad, x.grad.data + 2.0)
    constant = pickle.loads(pickle.dumps(tg.tensor(3)))
    assert not constant.requires_grad and constant.item() == 3 and constant.grad is None


def test_a_shallow_copy_shares_the_values_and_the_place_in_the_graph():
    x = leaf([1.0, 2.0])
    y = copy.copy(x)
    assert y.is_leaf and y.data is x.data
    h = copy.copy(x * 3.0)
    h.sum().backward()
    equal(x.grad, [3.0, 3.0])


def test_results_refuse_deepcopy_and_pickle():
    y = leaf([1.0]) * 2.0
    for call in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"graph.*detach"):
            call(y)
    assert copy.deepcopy(y.detach()).item() == 2.0


# -- what is refused, and what is advised ---------------------------------------------------------
def test_a_gradient_set_by_hand_has_the_shape_of_its_leaf():
    x = leaf([1.0, 2.0])
    for wrong in (tg.tensor([1.0]), np.ones(2)):
        with pytest.raises(ValueError, match=r"\(2,\)"):
            x.grad = wrong
    x.grad = tg.tensor([3.0, 4.0])
    with pytest.raises(ValueError, match=r"tg\.gradients"):
        (x * 2.0).grad = tg.tensor([3.0, 4.0])


def test_common_functions_are_methods():
    x = leaf([[0.3, 0.7], [0.2, 0.9]])
    there = [name for name in METHODS if hasattr(tg, name)]
    assert {"exp", "log", "sqrt", "abs", "tanh", "sigmoid", "relu", "softmax"} <= {*there}
    for name in there:
        np.testing.assert_array_equal(getattr(x, name)().data, getattr(tg, name)(x).data)
    np.testing.assert_array_equal(x.softmax(axis=0).data, tg.softmax(x, 0).data)
    assert x.exp().requires_grad


def test_what_is_no_method_names_the_function():
    x = leaf([1.0, 2.0])
    for call in (lambda: x.stack(), lambda: x.where(-1)):
        with pytest.raises(AttributeError, match=r"'Tensor' .* no attribute '(\w+)': .*tg\.\1\(x"):
            call()
    assert not hasattr(x, "stack") and not hasattr(x, "norml")


def test_from_dlpack_names_what_it_takes():
    for wrong in ([1.0], 2.0, None):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=rf"from_dlpack.*, not {kind}.*tg\.tensor"):
            tg.from_dlpack(wrong)


def test_numpy_functions_name_what_tinygen_has():
    x = leaf([1.0])
    with pytest.raises(TypeError, match=r"call tg\.abs"):
        numpy.abs(x)
    with pytest.raises(TypeError, match=r"np\.spacing would cut the graph .*: pass t\.detach"):
        numpy.spacing(x)
    with pytest.raises(TypeError, match=r"np\.linalg\.eigvals would cut the graph .*: pass t\.det"):
        numpy.linalg.eigvals(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tg.tensor([1j]),
        lambda: tg.tensor([1.0], dtype=complex),
        lambda: tg.zeros(2, dtype=np.complex64),
        lambda: tg.ones(2, dtype=complex),
        lambda: tg.eye(2, dtype=complex),
        lambda: tg.arange(2, dtype=complex),
        lambda: tg.linspace(0.0, 1.0, dtype=complex),
        lambda: tg.linspace(0.0, 1j),
        lambda: leaf([1.0]) * 2j,
        lambda: leaf([1.0]) + np.array([1j]),
        lambda: leaf([1.0]).astype(np.complex64),
        lambda: tg.exp(1j),
    ],
)
def test_complex_numbers_are_refused_by_name(call):
    with pytest.raises(TypeError, match=r"complex(64|128)"):
        call()
