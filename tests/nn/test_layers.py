"""Layers against plain NumPy, closed forms and central differences."""

import pytest

from tests.support.draws import normals
from tests.support.on_device import np, special, tg
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


# Linear and MLP ---------------------------------------------------------------------------------


@activations
def test_linear_is_the_activation_of_an_affine_map(activation):
    layer = nn.Linear(3, 4, activation, rng=Generator(0), dtype=np.float64)
    layer.bias.data[...] = normals(4, seed=1)
    x = 2 * normals(2, 5, 3, seed=2)
    expected = ACTIVATIONS[activation](x @ layer.weight.data + layer.bias.data)
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12, atol=1e-14)
    assert layer(x[0, 0]).shape == (4,) and layer(x[:, :0]).shape == (2, 0, 4)


@activations
def test_linear_gradients(activation):
    layer = nn.Linear(3, 2, activation, rng=Generator(4), dtype=np.float64)
    layer.bias.data[...] = 0.3 * normals(2, seed=5)
    check_gradients(layer, normals(4, 3, seed=6))


@pytest.mark.parametrize("final", [None, "sigmoid"])
def test_mlp_is_its_layers_one_after_the_other(final):
    mlp = nn.MLP([5, 7, 6, 2], "tanh", rng=Generator(3), final=final, dtype=np.float64)
    for i, layer in enumerate(mlp.layers):
        layer.bias.data[...] = 0.1 * normals(*layer.bias.shape, seed=i)
    assert [layer.weight.shape for layer in mlp.layers] == [(5, 7), (7, 6), (6, 2)]
    assert list(mlp.named_parameters()) == [
        f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")
    ]
    x = h = normals(9, 5)
    for layer, activation in zip(mlp.layers, ["tanh", "tanh", final], strict=True):
        h = ACTIVATIONS[activation](h @ layer.weight.data + layer.bias.data)
    np.testing.assert_allclose(mlp(x).data, h, rtol=1e-12)


def test_mlp_gradients():
    mlp = nn.MLP([2, 3, 2], "gelu", rng=Generator(0), final="softplus", dtype=np.float64)
    check_gradients(mlp, normals(3, 2))


def test_biases_start_at_zero_and_layers_differ():
    mlp = nn.MLP([6, 6, 6], rng=Generator(0))
    assert all((layer.bias.data == 0).all() for layer in mlp.layers)
    assert not np.array_equal(mlp.layers[0].weight.data, mlp.layers[1].weight.data)


def test_sequential_takes_functions():
    layer = nn.Linear(2, 2, rng=Generator(0), dtype=np.float64)
    both = nn.Sequential(layer, tg.exp)
    x = normals(3, 2)
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
    weights = normals(2, 3, 2, dtype=np.float32)
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
    x = 3 * normals(5, 400) + 10
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
    x = normals(2, 4, 3)
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 0.5)
    expected = centred / spread * layer.gain.data + layer.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12)
    check_gradients(layer, normals(3, 3, seed=1))


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
    x = tg.tensor(normals(10), requires_grad=True)
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
    x = tg.tensor(normals(50, dtype=np.float32), requires_grad=True)
    y = nn.Dropout(0.4, rng=Generator(0))(x)
    y.sum().backward()
    kept = np.where(y.data != 0, np.float32(1) / np.float32(0.6), 0)
    np.testing.assert_allclose(x.grad.data, kept, rtol=1e-6)


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
    x = tg.tensor(normals(6, 4, dtype=dtype), requires_grad=True)
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


# What users of other libraries try first --------------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        lambda **r: nn.Linear(64, 10, **r),
        lambda **r: nn.MLP([64, 32, 10], **r),
        lambda **r: nn.Embedding(64, 10, **r),
        lambda **r: nn.SpectralLinear(64, 10, **r),
    ],
    ids=["Linear", "MLP", "Embedding", "SpectralLinear"],
)
def test_without_rng_the_default_generator_draws(make):
    tg.manual_seed(5)
    first, second = make(), make()
    for a, b in zip(first.parameters(), make(rng=Generator(5)).parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert (first.parameters()[0].data != second.parameters()[0].data).any()


@pytest.mark.parametrize("kind", [nn.Linear, nn.SpectralLinear])
def test_a_layer_without_bias_is_the_product_alone(kind):
    layer = kind(3, 2, "tanh", bias=False, rng=0, dtype=np.float64)
    assert list(layer.named_parameters()) == ["weight"] and layer.bias is None
    x = normals(5, 3)
    weight = layer.eval().normalised_weight() if kind is nn.SpectralLinear else layer.weight
    np.testing.assert_allclose(layer(x).data, np.tanh(x @ weight.data), rtol=1e-12)
    again = kind(3, 2, "tanh", bias=False, rng=1, dtype=np.float64)
    again.load_state_dict(layer.state_dict())


def test_an_mlp_drops_what_its_hidden_layers_put_out():
    """With identity weights it puts out 0 or 1 / (1 - rate)², as a unit was dropped or not."""
    net = nn.MLP([1000, 1000, 1000, 1000], dropout=0.5, rng=0)
    for layer in net.layers:
        layer.weight.data[...] = np.eye(1000, dtype=np.float32)
    y = net(np.ones(1000, np.float32)).data
    assert ((y == 0) | (y == 4)).all() and 0.2 < (y == 4).mean() < 0.3
    np.testing.assert_array_equal(net.eval()(np.ones(1000, np.float32)).data, np.ones(1000))
    assert list(net.named_parameters()) == list(nn.MLP([1000] * 4, rng=0).named_parameters())
    with pytest.raises(ValueError, match="dropout rate"):
        nn.MLP([2, 2], dropout=1.0)


def test_the_dropout_of_a_module_does_not_share_the_default_generator():
    tg.manual_seed(1)
    layer, before = nn.Dropout(0.5), tg.random.default_generator().state
    layer(np.ones(4))
    assert tg.random.default_generator().state == before
    tg.manual_seed(1)
    np.testing.assert_array_equal(
        nn.Dropout(0.5)(np.ones(100)).data > 0,
        nn.Dropout(0.5, rng=layer.rng.state[0])(np.ones(100)).data > 0,
    )
