"""Modules, layers and initial weights, against plain NumPy, closed forms and central differences."""

import copy
import pickle
import re

import pytest

from tests.support.on_device import np, special, stats, tg
from tinygen.nn.init import initial
from tinygen.random import Generator

nn = tg.nn

# A layer's oracle: the activations in float64, by SciPy where it has them.
ACTIVATIONS = {
    None: lambda x: x,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
}
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def with_values(module, values, call):
    """call(module) with Tensors in the places of its parameters, which are put back after."""
    own = module.named_parameters()

    def put(tensors):
        for path, value in zip(own, tensors, strict=True):
            *parents, last = path.split(".")
            place = module
            for name in parents:
                place = place[int(name)] if isinstance(place, list) else getattr(place, name)
            setattr(place, last, value)

    put(values)
    try:
        return call(module)
    finally:
        put(own.values())


def check_gradients(module, x):
    """The gradients of module(x) in x and in every parameter, by central differences."""
    weights = [p.data for p in module.parameters()]
    assert tg.gradcheck(lambda x, *w: with_values(module, w, lambda m: m(x)), [x, *weights])


# Modules ----------------------------------------------------------------------------------------


class Part(nn.Module):
    def __init__(self, seed):
        self.weight = tg.tensor(normal(2, 3, seed=seed, dtype=np.float32), requires_grad=True)
        self.scale = tg.tensor(np.float32(seed))  # a buffer


class Whole(nn.Module):
    def __init__(self, seed=0):
        self.last = Part(seed + 1)
        self.parts = [Part(seed + 2), (Part(seed + 3), Part(seed + 4))]
        self.shared = self.parts[0]
        self.own = tg.tensor(normal(3, seed=seed, dtype=np.float32), requires_grad=True)
        self.rng = Generator(seed, 5)
        self.tied = self.own
        self.width, self.name, self.function = 3, "whole", np.tanh  # none of the module's business
        self.table = {"weight": tg.tensor(1.0, requires_grad=True)}


PARAMETERS = [
    "last.weight", "parts.0.weight", "parts.1.0.weight", "parts.1.1.weight", "own", "table.weight",
]  # fmt: skip


def state_of(module):
    """Everything that a module holds, to compare."""
    return {path: np.asarray(value) for path, value in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_parameters_are_found_in_the_order_of_the_attributes_and_shared_ones_once():
    whole = Whole()
    named = whole.named_parameters()
    assert list(named) == PARAMETERS
    assert [id(p) for p in whole.parameters()] == [id(p) for p in named.values()]
    assert named["parts.1.0.weight"] is whole.parts[1][0].weight
    assert len({id(p) for p in named.values()}) == len(PARAMETERS)


def test_a_constant_or_result_is_no_parameter():
    part = Part(0)
    part.weight.requires_grad = False
    assert part.named_parameters() == {}
    part.scale.requires_grad = True
    assert list(part.named_parameters()) == ["scale"]


def test_state_holds_parameters_buffers_and_generators_by_path():
    whole = Whole()
    state = whole.state_dict()
    assert set(state) == {
        *PARAMETERS, "last.scale", "parts.0.scale", "parts.1.0.scale", "parts.1.1.scale",
        "shared.weight", "shared.scale", "rng", "tied",
    }  # fmt: skip
    assert state["rng"].tolist() == [0, 5] and state["rng"].dtype == np.uint64
    assert state["parts.1.1.scale"] == 4
    for array in state.values():  # they are copies
        array[...] = 77
    assert whole.last.scale.item() == 1 and whole.rng.state == (0, 5)
    assert not (whole.own.data == 77).any()


def test_the_state_makes_another_module_equal():
    one, two = Whole(0), Whole(100)
    one.rng.normal(3)
    one.rng.state = 2**64 - 1, 2**63 + 1  # no float64 holds these
    arrays = {path: p.data for path, p in two.named_parameters().items()}
    two.load_state_dict(one.state_dict())
    assert equal(state_of(one), state_of(two))
    assert two.rng.state == (2**64 - 1, 2**63 + 1)
    assert all(p.data is arrays[path] for path, p in two.named_parameters().items())  # in place
    two.own.data[...] = 9
    assert not (one.own.data == 9).any()


def test_loading_names_every_problem_and_changes_nothing():
    whole, state = Whole(), Whole(50).state_dict()
    before = state_of(whole)
    del state["parts.1.1.weight"]
    state["parts.1.0.weight"] = np.zeros((3, 2), np.float32)
    state["rng"] = np.zeros(3, np.uint64)
    state["extra.bias"] = np.zeros(1)
    with pytest.raises(ValueError) as raised:
        whole.load_state_dict(state)
    message = str(raised.value)
    assert "missing: parts.1.1.weight" in message
    assert "not expected: extra.bias" in message
    assert re.search(r"parts\.1\.0\.weight: shape \(3, 2\).* \(2, 3\)", message)
    assert re.search(r"rng: shape \(3,\).* \(2,\)", message)
    assert equal(state_of(whole), before)


@pytest.mark.parametrize("bad", [np.array([-1, 0]), np.array([0.5, np.nan])])
def test_a_wrong_generator_state_changes_nothing(bad):
    whole = Whole()
    before = state_of(whole)
    with pytest.raises(ValueError, match="rng"):
        whole.load_state_dict(Whole(50).state_dict() | {"rng": bad})
    assert equal(state_of(whole), before)


def test_shapes_are_not_broadcast_on_loading():
    part = Part(0)
    with pytest.raises(ValueError, match=r"weight: shape \(1, 3\).*\(2, 3\)"):
        part.load_state_dict({"weight": np.zeros((1, 3)), "scale": np.zeros(())})


def test_training_and_evaluation_reach_every_module():
    whole = Whole()
    modules = list(whole.modules())
    assert modules[0] is whole
    inner = [whole.last, whole.parts[0], *whole.parts[1]]
    assert {id(m) for m in modules} == {id(whole), *map(id, inner)}
    whole.eval()
    assert not any(m.training for m in [whole, *inner])
    whole.train()
    assert all(m.training for m in [whole, *inner])
    assert Part(0).training  # a class's own default is as it was


def test_zero_grad_forgets_the_gradients():
    layer = nn.Linear(2, 2, rng=Generator(0))
    layer(normal(3, 2, dtype=np.float32)).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_module_is_equal_and_its_own(copied):
    one = nn.Sequential(nn.Linear(3, 4, "silu", rng=Generator(1)), nn.LayerNorm(4))
    two = copied(one)
    assert equal(state_of(one), state_of(two))
    assert list(two.named_parameters()) == list(one.named_parameters())
    x = normal(5, 3, dtype=np.float32)
    np.testing.assert_array_equal(one(x).data, two(x).data)
    two(x).sum().backward()
    assert all(p.grad is None for p in one.parameters())
    two.layers[0].weight.data[...] = 0
    assert not equal(state_of(one), state_of(two))


def test_a_copy_keeps_parameters_shared():
    two = copy.deepcopy(Whole())
    assert two.shared is two.parts[0] and two.tied is two.own
    assert list(two.named_parameters()) == PARAMETERS


# Linear and MLP ---------------------------------------------------------------------------------


@activations
def test_linear_is_the_activation_of_an_affine_map(activation):
    layer = nn.Linear(3, 4, activation, rng=Generator(0), dtype=np.float64)
    layer.bias.data[...] = normal(4, seed=1)
    x = 2 * normal(2, 5, 3, seed=2)
    expected = ACTIVATIONS[activation](x @ layer.weight.data + layer.bias.data)
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12, atol=1e-14)
    assert layer(x[0, 0]).shape == (4,) and layer(x[:, :0]).shape == (2, 0, 4)


@activations
def test_linear_gradients(activation):
    layer = nn.Linear(3, 2, activation, rng=Generator(4), dtype=np.float64)
    layer.bias.data[...] = 0.3 * normal(2, seed=5)
    check_gradients(layer, normal(4, 3, seed=6))


@pytest.mark.parametrize("final", [None, "sigmoid"])
def test_mlp_is_its_layers_one_after_the_other(final):
    mlp = nn.MLP([5, 7, 6, 2], "tanh", rng=Generator(3), final=final, dtype=np.float64)
    for i, layer in enumerate(mlp.layers):
        layer.bias.data[...] = 0.1 * normal(*layer.bias.shape, seed=i)
    assert [layer.weight.shape for layer in mlp.layers] == [(5, 7), (7, 6), (6, 2)]
    assert list(mlp.named_parameters()) == [
        f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")
    ]
    x = h = normal(9, 5)
    for layer, activation in zip(mlp.layers, ["tanh", "tanh", final], strict=True):
        h = ACTIVATIONS[activation](h @ layer.weight.data + layer.bias.data)
    np.testing.assert_allclose(mlp(x).data, h, rtol=1e-12)


def test_mlp_gradients():
    mlp = nn.MLP([2, 3, 2], "gelu", rng=Generator(0), final="softplus", dtype=np.float64)
    check_gradients(mlp, normal(3, 2))


def test_biases_start_at_zero_and_layers_differ():
    mlp = nn.MLP([6, 6, 6], rng=Generator(0))
    assert all((layer.bias.data == 0).all() for layer in mlp.layers)
    assert not np.array_equal(mlp.layers[0].weight.data, mlp.layers[1].weight.data)


def test_sequential_takes_functions():
    layer = nn.Linear(2, 2, rng=Generator(0), dtype=np.float64)
    both = nn.Sequential(layer, tg.exp)
    x = normal(3, 2)
    np.testing.assert_array_equal(both(x).data, np.exp(layer(x).data))
    assert list(both.named_parameters()) == ["layers.0.weight", "layers.0.bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: nn.Linear(0, 2, rng=g), r"Linear\(0, 2\)"),
        (lambda g: nn.Linear(2, -1, rng=g), r"Linear\(2, -1\)"),
        (lambda g: nn.Linear(2, 2, "reul", rng=g), "'reul'.*did you mean 'relu'"),
        (lambda g: nn.Linear(2, 2, init="glorrot", rng=g), "'glorrot'.*did you mean 'glorot'"),
        (lambda g: nn.MLP([3], rng=g), r"\[3\]"),
        (lambda g: nn.MLP([3, 2], "sigmod", rng=g), "did you mean 'sigmoid'"),
        (lambda g: nn.MLP([3, 2], final="tahn", rng=g), "did you mean 'tanh'"),
        (lambda g: nn.Embedding(0, 2, rng=g), r"Embedding\(0, 2\)"),
        (lambda g: nn.TimeEmbedding(5), "even and positive, not 5"),
        (lambda g: nn.TimeEmbedding(0), "even and positive, not 0"),
        (lambda g: nn.Dropout(1.0, rng=g), r"\[0, 1\), not 1"),
        (lambda g: nn.Dropout(-0.1, rng=g), "not -0.1"),
        (lambda g: nn.Dropout(float("nan"), rng=g), "not nan"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(Generator(0))


# Embedding --------------------------------------------------------------------------------------


def test_embedding_looks_rows_up():
    layer = nn.Embedding(5, 3, rng=Generator(0))
    indices = np.array([[4, 0], [2, 2]])
    np.testing.assert_array_equal(layer(indices).data, layer.table.data[indices])
    assert layer(3).shape == (3,) and layer(np.zeros(0, int)).shape == (0, 3)
    assert layer([1, 2]).shape == (2, 3) and layer(np.uint8(4)).shape == (3,)


def test_rows_used_twice_get_both_gradients():
    layer = nn.Embedding(5, 2, rng=Generator(0))
    weights = normal(2, 3, 2, dtype=np.float32)
    indices = np.array([[4, 0, 4], [2, 4, 0]])
    (layer(indices) * weights).sum().backward()
    expected = np.zeros((5, 2), np.float32)
    for i, w in zip(indices.reshape(-1), weights.reshape(-1, 2), strict=True):
        expected[i] += w
    np.testing.assert_allclose(layer.table.grad.data, expected, rtol=1e-6)
    assert (layer.table.grad.data[np.array([1, 3])] == 0).all()


def test_embedding_gradients():
    layer = nn.Embedding(4, 2, rng=Generator(1), dtype=np.float64)
    i = np.array([0, 3, 3])
    table = layer.table.data
    assert tg.gradcheck(lambda t: with_values(layer, [t], lambda m: tg.sin(m(i))), [table])


@pytest.mark.parametrize("bad", [5, -1, [0, 7]])
@pytest.mark.cpu_only("on the GPU nothing waits for the numbers")
def test_embedding_refuses_numbers_outside(bad):
    with pytest.raises(IndexError, match=r"5 rows"):
        nn.Embedding(5, 2, rng=Generator(0))(bad)


@pytest.mark.parametrize("bad", [1.0, [True, False]])
def test_embedding_refuses_what_is_no_whole_number(bad):
    with pytest.raises(IndexError, match=r"whole numbers, not (float64|bool)"):
        nn.Embedding(5, 2, rng=Generator(0))(bad)


# TimeEmbedding, LayerNorm, Dropout --------------------------------------------------------------


def test_time_embedding_formula():
    layer = nn.TimeEmbedding(6, period=100.0)
    t = np.array([0, 1, 7, 1000])
    e = layer(t)
    for i in range(3):
        angle = t / 100.0 ** (i / 3)
        np.testing.assert_allclose(e.data[:, i], np.sin(angle), atol=1e-7)
        np.testing.assert_allclose(e.data[:, 3 + i], np.cos(angle), atol=1e-7)
    assert e.dtype == np.float32 and not e.requires_grad and layer.parameters() == []
    np.testing.assert_array_equal(e.data[0], [0, 0, 0, 1, 1, 1])
    default = nn.TimeEmbedding(4)(np.array([3]))
    np.testing.assert_allclose(
        default.data[0], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)], atol=1e-7
    )


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan")])
def test_time_embedding_refuses_a_period_that_is_not_positive(period):
    with pytest.raises(ValueError, match="period"):
        nn.TimeEmbedding(4, period)


def test_layer_norm_has_the_mean_of_its_bias_and_the_spread_of_its_gain():
    layer = nn.LayerNorm(400, eps=0.0, dtype=np.float64)
    x = 3 * normal(5, 400) + 10
    y = layer(x).data
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-13)
    np.testing.assert_allclose(y.var(axis=1), 1, rtol=1e-12)
    layer.gain.data[...], layer.bias.data[...] = 2.5, -1.5
    y = layer(x).data
    np.testing.assert_allclose(y.mean(axis=1), -1.5, rtol=1e-12)
    np.testing.assert_allclose(y.std(axis=1), 2.5, rtol=1e-12)
    np.testing.assert_allclose(layer(7 * x - 3).data, y, rtol=1e-9)  # blind to scale and shift


def test_layer_norm_formula_with_eps():
    layer = nn.LayerNorm(3, eps=0.5, dtype=np.float64)
    layer.gain.data[...], layer.bias.data[...] = np.array([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]])
    x = normal(2, 4, 3)
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 0.5)
    expected = centred / spread * layer.gain.data + layer.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12)
    check_gradients(layer, normal(3, 3, seed=1))


def test_a_constant_row_is_normalised_to_zero():
    assert (nn.LayerNorm(4)(np.full((2, 4), 3.0, np.float32)).data == 0).all()


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    n, rate = 100_000, 0.3
    y = nn.Dropout(rate, rng=Generator(0))(np.full(n, 2.0, np.float32)).data
    kept = y != 0
    np.testing.assert_allclose(y[kept], 2 / (1 - rate), rtol=1e-6)
    assert abs(kept.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / n)
    assert abs(y.mean() - 2) < 4 * 2 * np.sqrt(rate / (1 - rate) / n)


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    x = tg.tensor(normal(10), requires_grad=True)
    layer = nn.Dropout(0.5, rng=Generator(0))
    layer.eval()
    assert layer(x) is x and layer.rng.state == (0, 0)
    np.testing.assert_array_equal(layer(x.data).data, x.data)
    assert nn.Dropout(0.0, rng=Generator(0))(x) is x


def test_dropout_of_one_generator_state_is_one_mask():
    layer = nn.Dropout(0.5, rng=Generator(3))
    x = np.ones((20, 5), np.float32)
    first, second = layer(x).data, layer(x).data
    assert not np.array_equal(first, second)
    layer.load_state_dict({"rng": np.array([3, 0], np.uint64)})
    np.testing.assert_array_equal(layer(x).data, first)
    np.testing.assert_array_equal(layer(x).data, second)


def test_dropout_sends_the_gradient_through_what_it_kept():
    x = tg.tensor(normal(50, dtype=np.float32), requires_grad=True)
    y = nn.Dropout(0.4, rng=Generator(0))(x)
    y.sum().backward()
    kept = np.where(y.data != 0, np.float32(1) / np.float32(0.6), 0)
    np.testing.assert_allclose(x.grad.data, kept, rtol=1e-6)


# Initial weights --------------------------------------------------------------------------------

SHAPE = (150, 400)
N = SHAPE[0] * SHAPE[1]


def test_glorot_is_uniform_up_to_its_limit():
    w = nn.glorot(Generator(0), SHAPE, np.float64)
    limit = np.sqrt(6 / 550)
    assert abs(w).max() <= limit and abs(w).max() > limit * (1 - 1e-3)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 550 / N)
    # the variance of the sample variance of a uniform is that of 0.8 · var² / n
    assert abs(w.var() / (2 / 550) - 1) < 4 * np.sqrt(0.8 / N)
    assert stats.kstest(w.reshape(-1), stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3


def test_he_is_normal_with_the_variance_of_its_inputs():
    w = nn.he(Generator(0), SHAPE, np.float64)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 150 / N)
    assert abs(w.var() / (2 / 150) - 1) < 4 * np.sqrt(2 / N)
    assert stats.kstest(w.reshape(-1), stats.norm(0, np.sqrt(2 / 150)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25), (1, 4), (4, 1)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    for dtype in (np.float32, np.float64):
        w = nn.orthogonal(Generator(2), shape, dtype)
        assert w.shape == shape and w.dtype == dtype and w.flags.c_contiguous
        w = w.astype(np.float64)
        gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
        np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-6)


def test_orthogonal_has_no_preferred_sign():
    """The trace of a uniformly distributed orthogonal matrix has mean 0 and variance 1."""
    traces = [np.trace(nn.orthogonal(Generator(s), (4, 4), np.float64)) for s in range(400)]
    assert abs(np.mean(traces)) < 4 / np.sqrt(400)
    assert abs(np.var(traces) - 1) < 0.4


@pytest.mark.parametrize("name", ["glorot", "he", "orthogonal"])
def test_initial_weights_are_a_function_of_the_generator(name):
    first = initial(name, Generator(5), (6, 4))
    np.testing.assert_array_equal(first, initial(name, Generator(5), (6, 4)))
    assert not np.array_equal(first, initial(name, Generator(6), (6, 4)))
    assert first.dtype == np.float32 and first.shape == (6, 4)
    layer = nn.Linear(6, 4, init=name, rng=Generator(5))
    np.testing.assert_array_equal(layer.weight.data, first)


def test_layers_take_their_numbers_from_one_stream():
    rng = Generator(9)
    mlp = nn.MLP([3, 4, 5], rng=rng)
    again = Generator(9)
    for layer in mlp.layers:
        np.testing.assert_array_equal(layer.weight.data, nn.glorot(again, layer.weight.shape))
    assert rng.state == again.state


# dtypes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make",
    [
        *(lambda g, d, a=a: nn.Linear(4, 4, a, rng=g, dtype=d) for a in ACTIVATIONS),
        lambda g, d: nn.MLP([4, 3, 2], "silu", final="tanh", rng=g, dtype=d),
        lambda g, d: nn.LayerNorm(4, dtype=d),
        lambda g, d: nn.Dropout(0.5, rng=g),
        lambda g, d: nn.Sequential(nn.Linear(4, 4, rng=g, dtype=d), nn.Dropout(0.5, rng=g)),
    ],
)
def test_the_dtype_that_goes_in_comes_out(make, dtype):
    layer = make(Generator(0), dtype)
    x = tg.tensor(normal(6, 4, dtype=dtype), requires_grad=True)
    y = layer(x)
    (y * y).mean().backward()
    assert y.dtype == dtype and x.grad.dtype == dtype
    for p in layer.parameters():
        assert p.dtype == dtype and p.grad.dtype == dtype


def test_embedding_dtypes():
    for dtype in (np.float32, np.float64):
        layer = nn.Embedding(3, 2, rng=Generator(0), dtype=dtype)
        y = layer([0, 1, 1])
        y.sum().backward()
        assert y.dtype == dtype and layer.table.grad.dtype == dtype


def test_what_is_no_layer_or_no_float_is_refused():
    with pytest.raises(TypeError, match="list"):
        nn.Sequential([nn.Linear(2, 2, rng=Generator(0))])
    with pytest.raises(TypeError, match="int64"):
        nn.Dropout(0.5, rng=Generator(0))(np.arange(6))
    with pytest.raises(NotImplementedError, match="__call__"):
        nn.Module()(1.0)
