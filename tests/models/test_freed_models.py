"""A trained model is freed with its last name, by its reference count alone."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tinygen.models import MODELS

X = np.random.default_rng(0).random((20, 4), np.float32)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_holds_a_model_after_its_training_and_sampling(name, compiled):
    gc.collect()
    gc.disable()
    try:
        model = MODELS[name](features=4)
        model.fit(X, steps=3, compile=compiled)
        if name == "ddpm":
            model.sample(2, compile=compiled)
        elif hasattr(model, "sample"):
            model.sample(2)
        living = weakref.ref(model), weakref.ref(model.parameters()[0])
        del model
        assert [there() for there in living] == [None, None]
    finally:
        gc.enable()
