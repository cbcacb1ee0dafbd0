"""Modules: their parameters, state, copies and modes."""

import copy
import pickle
import re

import pytest

from tests.support.draws import normals
from tests.support.on_device import np, tg
from tinygen.random import Generator

nn = tg.nn


class Part(nn.Module):
    def __init__(self, seed):
        self.weight = tg.tensor(normals(2, 3, seed=seed, dtype=np.float32), requires_grad=True)
        self.scale = tg.tensor(np.float32(seed))  # a buffer


class Whole(nn.Module):
    def __init__(self, seed=0):
        self.last = Part(seed + 1)
        self.parts = [Part(seed + 2), (Part(seed + 3), Part(seed + 4))]
        self.shared = self.parts[0]
        self.own = tg.tensor(normals(3, seed=seed, dtype=np.float32), requires_grad=True)
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
    layer(normals(3, 2, dtype=np.float32)).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_module_is_equal_and_its_own(copied):
    one = nn.Sequential(nn.Linear(3, 4, "silu", rng=Generator(1)), nn.LayerNorm(4))
    two = copied(one)
    assert equal(state_of(one), state_of(two))
    assert list(two.named_parameters()) == list(one.named_parameters())
    x = normals(5, 3, dtype=np.float32)
    np.testing.assert_array_equal(one(x).data, two(x).data)
    two(x).sum().backward()
    assert all(p.grad is None for p in one.parameters())
    two.layers[0].weight.data[...] = 0
    assert not equal(state_of(one), state_of(two))


def test_a_copy_keeps_parameters_shared():
    two = copy.deepcopy(Whole())
    assert two.shared is two.parts[0] and two.tied is two.own
    assert list(two.named_parameters()) == PARAMETERS
