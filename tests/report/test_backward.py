"""The backward pass that a page tells is the engine's own, and nothing changes by telling it."""

from __future__ import annotations

import pytest

from tests.support.on_device import np, on_cpu, tg
from tinygen.autodiff import engine
from tinygen.autodiff.engine import Node, ancestors
from tinygen.autodiff.graph import numbered
from tinygen.report import recording
from tinygen.report.backward import backward_of, values_of

pytestmark = pytest.mark.filterwarnings("error")


def micrograd():
    """The example of micrograd's README: g = 24.7041, ∂g/∂a = 138.8338, ∂g/∂b = 645.5773."""
    a = tg.tensor(-4.0, requires_grad=True, name="a")
    b = tg.tensor(2.0, requires_grad=True, name="b")
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + tg.relu(b + a)
    d = d + 3 * d + tg.relu(b - a)
    e = c - d
    f = e**2
    g = f / 2.0
    g = g + 10.0 / f
    g.name = "g"
    return a, b, g


def network():
    """A small one in float32 that uses its weight twice, broadcasts and joins."""
    x = tg.tensor(np.linspace(-1, 1, 12).reshape(4, 3), dtype=np.float32)
    w = tg.tensor(np.linspace(-2, 1, 9).reshape(3, 3), dtype=np.float32, requires_grad=True)
    bias = tg.tensor(np.ones(3), dtype=np.float32, requires_grad=True, name="bias")
    h = tg.tanh(x @ w + bias)
    h = tg.concatenate([h, h @ w, bias * h], axis=1)
    return w, bias, (h * h).mean()


def results():
    return [micrograd()[2], network()[2]]


@pytest.mark.parametrize("which", [0, 1])
def test_the_order_is_that_in_which_the_engine_visits(which, monkeypatch):
    result = results()[which]
    told = backward_of(result).visits
    visited, pull = [], engine._pull

    def watched(node, *rest):
        visited.append(node)
        return pull(node, *rest)

    monkeypatch.setattr(engine, "_pull", watched)
    result.backward()
    assert told == visited and len(told) == len(set(told)) >= 8


@pytest.mark.parametrize("which", [0, 1])
def test_what_arrives_adds_up_to_the_gradient_to_the_bit(which):
    result = results()[which]
    backward = backward_of(result)
    for source, arrivals in backward.arrivals.items():
        exact = tg.gradients(result, tg.Tensor(arrivals[0].gradient, source), retain_graph=True)
        np.testing.assert_array_equal(on_cpu(arrivals[-1].total), exact.numpy(), strict=True)
        running = 0
        for a in arrivals:
            running = running + on_cpu(a.gradient)
            np.testing.assert_array_equal(on_cpu(a.total), running)
    assert backward.arrivals.keys() == backward.numbers.keys() == set(ancestors(result.node))


def test_each_use_of_a_value_is_an_arrival_in_the_step_of_its_user():
    result = network()[2]
    backward = backward_of(result)
    for source, arrivals in backward.arrivals.items():
        uses = {(n, i) for n in backward.visits for i, p in enumerate(n.parents) if p is source}
        sent = [(a.sender, a.input) for a in arrivals if a.sender is not None]
        assert set(sent) == uses and len(sent) == len(uses)
        assert [a.step for a in arrivals] == sorted(a.step for a in arrivals)
        for a in arrivals:
            assert a.sender is None or backward.visits[a.step - 1] is a.sender


def test_nothing_changes_by_telling():
    a, b, g = micrograd()
    backward_of(g)
    assert a.grad is None and b.grad is None
    g.backward()
    assert (round(a.grad.item(), 4), round(b.grad.item(), 4)) == (138.8338, 645.5773)


def test_after_backward_there_is_nothing_to_tell():
    _, _, g = micrograd()
    g.backward()
    with pytest.raises(ValueError, match="retain_graph=True"):
        backward_of(g)
    with pytest.raises(ValueError, match="constant"):
        backward_of(tg.tensor(1.0))
    with pytest.raises(TypeError, match="is a Tensor"):
        backward_of(np.ones(2))


def test_a_leaf_alone_has_the_gradient_that_backward_begins_with():
    x = tg.tensor(3.0, requires_grad=True)
    backward = backward_of(x)
    assert backward.visits == [] and [a.step for a in backward.arrivals[x.node]] == [0]


# -- values --------------------------------------------------------------------------------------
def test_values_are_those_that_rules_keep_or_living_tensors_hold():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = tg.exp(x + 1.0)  # the sum is gone: exp keeps its output, the sum nothing
    loss = (y * y).sum()
    numbers = numbered(loss)
    values = values_of(loss, numbers)
    named = {getattr(s, "op", None) and s.op.name: values.get(s) for s in numbers}
    assert named["add"] is None
    assert named["exp"][0] is y.data and "kept by its own rule" in named["exp"][1]
    assert named[None][0] is x.data and "a Tensor that is alive" in named[None][1]
    product, holder = named["multiply"], named["sum"][1]
    assert product is None and "a Tensor that is alive" in holder


def test_a_value_that_an_operation_cast_is_not_taken_for_the_one_before():
    x = tg.tensor([1.0, 2.0], requires_grad=True, dtype=np.float32)
    loss = (x * tg.tensor([3.0, 4.0], requires_grad=True)).sum()  # multiply keeps x as float64
    assert loss.node.parents[0].kept["a"].dtype == np.float64
    node = x.node
    del x
    assert node not in values_of(loss, numbered(loss))


def test_while_recording_every_value_has_a_holder_and_a_line():
    with recording():
        _, _, loss = network()
        numbers = numbered(loss)
        values = values_of(loss, numbers)
    assert values.keys() == numbers.keys()
    for source in numbers:
        assert values[source][0].shape == source.shape
        if isinstance(source, Node):
            assert __file__ in source.line
    del values
    after = values_of(loss, numbers)  # nothing is held any more, but the loss itself
    held = {s.op.name for s in after if isinstance(s, Node) and "alive" in after[s][1]}
    assert len(after) < len(numbers) and held == {"mean"}


def test_recording_ends_with_an_error_too():
    before = engine.Operation.apply
    with pytest.raises(ZeroDivisionError):
        with recording():
            raise ZeroDivisionError
    assert engine.Operation.apply is before
