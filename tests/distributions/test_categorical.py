"""Categoricals: impossible classes, and samples among many."""

import pytest

from tests.support.distributions import IMPOSSIBLE, LOGITS, LOGITS_2, MEAN, Fixed
from tests.support.on_device import np, tg
from tinygen.distributions import Categorical, js_divergence, kl_divergence


def test_gradient_passes_impossible_classes_by():
    possible = np.array([True, True, True, False])

    def with_impossible(v):
        return tg.where(possible, tg.concatenate([v, np.zeros((4, 1))], -1), IMPOSSIBLE)

    for f in (
        lambda v, w: kl_divergence(Categorical(with_impossible(v)), Categorical(w)),
        lambda v, w: js_divergence(Categorical(with_impossible(v)), Categorical(w)),
        lambda v, _: Categorical(with_impossible(v)).entropy(),
    ):
        tg.gradcheck(f, [LOGITS, np.hstack([LOGITS_2, MEAN[:, :1]])])


@pytest.mark.parametrize("u", [0.0, 0.25, 1 - 2.0**-53])
def test_every_uniform_number_falls_into_a_possible_class(u):
    # Softmax rounds, so that the probabilities may sum to less than the largest u.
    logits = np.random.default_rng(0).normal(size=(1000, 7))
    logits[:, 0] = logits[:, 3] = logits[:, 6] = IMPOSSIBLE
    assert np.isin(Categorical(logits).sample(Fixed(u)).data, [1, 2, 4, 5]).all()


def test_sampling_adds_many_small_probabilities_without_drift():
    k = 100_000
    drawn = Categorical(np.zeros(k, np.float32)).sample(Fixed(0.5)).item()
    assert abs(drawn - k // 2) <= 1
