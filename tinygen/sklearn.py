"""The models as estimators of scikit-learn, for pipelines and searches. Needs scikit-learn 1.6.

An estimator takes the options of its model and the settings of its training by name, and learns the
number of features in `fit`. Its defaults are for data of any range. `random_state` stands for both
seeds. The trained model is `model_`, the losses of its training are `history_`. All is computed in
float32 on the CPU. scikit-learn's guide says what `fit`, `transform` and the others promise.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinygen import models
from tinygen.autodiff.modes import no_grad
from tinygen.errors import pip_install
from tinygen.metrics import sliced_wasserstein
from tinygen.models.diffusion import variational_bound
from tinygen.models.rows import by_blocks
from tinygen.random import Generator

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        DensityMixin,
        TransformerMixin,
    )
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ModuleNotFoundError(
        f"tinygen.sklearn needs scikit-learn 1.6 or newer ({error}): {pip_install('scikit-learn')}"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DDPM", "GAN", "VAE", "Autoencoder"]

Array = np.ndarray[Any, Any]
DRAWS = 16  # of z for the bound of each row; the same for all rows, so that a row has one score
NOT_OURS = ("self", "features", "seed", "classes")  # options of a model that are no parameters here
CALLED = {"predict": "prediction"}  # the parameters that have names of methods of scikit-learn


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """A model, its training, samples of it."""

    _model: ClassVar[Any]
    model_: Any
    random_state: Any

    def __init_subclass__(cls, model: type[models.Model] | None = None, **defaults: Any) -> None:
        """Give a class its __init__: the options of `model`, the settings of its training.

        `defaults` differ from those of the model. scikit-learn reads parameters off the signature.
        """
        super().__init_subclass__()
        if model is None:
            return
        options = inspect.signature(model.__init__).parameters
        values = {CALLED.get(p.name, p.name): p.default for p in options.values()}
        values |= asdict(model.defaults)
        values |= {**defaults, "random_state": None}
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in values.items()
            if name not in NOT_OURS
        ]
        signature = inspect.Signature([own, *keywords])

        def __init__(self: Any, **parameters: Any) -> None:
            bound = signature.bind(self, **parameters)  # TypeError: an unknown name
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                if name != "self":
                    setattr(self, name, value)

        init: Any = __init__
        init.__signature__ = signature
        cls._model, cls.__init__ = model, init  # type: ignore[method-assign]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a new model on the rows of X (n, features). y is not used."""
        X = validate_data(self, X, dtype=np.float32)
        given, seed = self.get_params(deep=False), _seed(self.random_state)
        taken = {n: CALLED.get(n, n) for n in inspect.signature(self._model.__init__).parameters}
        options = {name: given[key] for name, key in taken.items() if key in given}
        settings = {name: given[name] for name in asdict(self._model.defaults) if name in given}
        self.model_ = self._model(X.shape[1], seed=seed, **options)
        self.history_ = self.model_.fit(X, seed=seed, **settings)
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """New rows (n_samples, features) in the units of the data."""
        check_is_fitted(self)
        return np.asarray(self.model_.sample(n_samples, rng=_seed(random_state)))

    def _rows(self, X: Any) -> Array:
        """X (n, features), checked for a trained model."""
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=np.float32, reset=False))


class _Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Estimator):  # type: ignore[misc]
    """A model with codes is a transformer."""

    latent: int

    def transform(self, X: Any) -> Array:
        """The codes (n, latent) of the rows of X, float32."""
        return np.asarray(self.model_.encode(self._rows(X)))

    def inverse_transform(self, X: Any) -> Array:
        """The data (n, features) that the decoder makes of codes X (n, latent)."""
        check_is_fitted(self)
        return np.asarray(self.model_.decode(check_array(X, dtype=np.float32)))

    @property
    def _n_features_out(self) -> int:
        return self.latent

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class Autoencoder(_Encoder, model=models.Autoencoder, bounded=False):
    """`tinygen.models.Autoencoder` as a transformer: data to codes, and back."""

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared error of the reconstruction, over rows and features."""
        X = self._rows(X)
        return -float(np.square(self.model_.reconstruct(X) - X).mean(dtype=np.float64))


class VAE(_Encoder, model=models.VAE, likelihood="gaussian"):
    """`tinygen.models.VAE` as a transformer, to the means of q(z|x), and an estimator of density."""

    @no_grad()
    def score_samples(self, X: Any) -> Array:
        """A lower bound on log p(x) of each row in nats, (n,): that of Burda et al. (2016), k = 16.

        All rows have the same draws of z. So the score of a row does not depend on the others.
        """
        X, model = self._rows(X), self.model_
        noise = Generator(0).normal((DRAWS, 1, 1, self.latent))

        def bound(x: Array) -> Array:
            posterior = model.posterior(x)
            draws = (np.broadcast_to(draw, (1, len(x), self.latent)) for draw in noise)
            weights = [sum(model.log_weights(x, posterior, draw)).data[0] for draw in draws]
            return np.logaddexp.reduce(weights) - np.float32(np.log(DRAWS))

        return np.asarray(model._per_unit(by_blocks(bound, model.normalise(X))))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`."""
        return float(self.score_samples(X).mean(dtype=np.float64))


class DDPM(DensityMixin, _Estimator, model=models.DDPM, bounded=False):  # type: ignore[misc]
    """`tinygen.models.DDPM` without classes, as an estimator of density. Its `predict` is `prediction`."""

    def score(self, X: Any, y: Any = None) -> float:
        """The mean over the rows of the variational bound on log p(x), in nats.

        The network sees T · n rows.
        """
        return -float(variational_bound(self.model_, self._rows(X), rng=0).total.mean())


class GAN(DensityMixin, _Estimator, model=models.GAN, bounded=False):  # type: ignore[misc]
    """`tinygen.models.GAN`: an estimator of a distribution that has samples and no density."""

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the sliced Wasserstein-2 distance from X to as many samples, in the data's units."""
        X = self._rows(X)
        return -sliced_wasserstein(self.model_.sample(len(X), rng=0), X, rng=1)


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
