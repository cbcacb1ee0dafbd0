"""The losses of a run as a table by name that counts its steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tinygen.models import GAN
from tinygen.training import History

pytestmark = pytest.mark.cpu_only("a table of numbers")


def test_the_length_of_a_history_is_the_number_of_steps():
    rows = np.random.default_rng(0).normal(size=(40, 2))
    model = GAN(2, hidden=(4,), latent=2, bounded=False)
    history = model.fit(rows, steps=7)
    assert len(history) == 7 and len(history.keys()) == len({**history}) > 1
    assert repr(history).startswith("<history of 7 steps, the last one: ")


def test_a_history_is_a_dict_in_all_else():
    history = History(loss=[3.0, 2.0, 1.0], accuracy=[0.5, 0.6, 0.7])
    assert history == {"loss": [3.0, 2.0, 1.0], "accuracy": [0.5, 0.6, 0.7]}
    assert [*history] == ["loss", "accuracy"] and copy.deepcopy(history) == history
    assert repr(history) == "<history of 3 steps, the last one: loss 1, accuracy 0.7>"
    assert not History() and len(History()) == 0 and repr(History()) == "<no history>"
