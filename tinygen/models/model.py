"""What the models have in common: data in, samples out, training, files."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tinygen import checkpoint
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of
from tinygen.errors import CheckpointError, NonFiniteError, renamed, unknown, whole
from tinygen.models.rows import moments
from tinygen.nn import Module
from tinygen.optim import Adam, Optimizer
from tinygen.parallel import ranks_of
from tinygen.random import Generator, Rng
from tinygen.training import Data, History, Objective, Settings, not_finite, train

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Model"]

Array = np.ndarray[Any, Any]
Init = TypeVar("Init", bound=Callable[..., None])


class Model(Module):
    """A generative model of rows of `features` numbers.

    bounded: the data lie in [0, 1] (images), and so do the samples. Otherwise the networks work on
        data with mean 0 and standard deviation 1 in each feature; `fit` measures the scale.
    Data, samples and codes are arrays on the model's device. `model.to("gpu")` moves the model.
    `config` holds the arguments of `__init__` by name. A file needs them to make the model again.
    """

    defaults: ClassVar[Settings] = Settings()
    unbounded: ClassVar[str] = "bounded=False"  # the option for data of any range
    config: dict[str, Any]
    step = 0  # of the current training run; the loop sets it, and schedules read it
    classes_by_name: ClassVar[dict[str, type[Model]]] = {}  # the names are those in files

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        named = Model.classes_by_name.get(cls.__name__, cls)
        if not named.__module__.startswith("tinygen."):  # a new class replaces an old one
            named = cls
        Model.classes_by_name[cls.__name__] = named

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        model = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        for p in bound.signature.parameters.values():
            if p.kind is p.VAR_KEYWORD:  # **options are entered by their own names
                given |= given.pop(p.name)
        model.config = {k: _plain(v) for k, v in given.items() if k != "self"}
        return model

    def __init__(self, features: int, bounded: bool) -> None:
        self.features = whole("features", features)
        self.bounded = bounded
        if not bounded:
            self.shift = tensor(np.zeros(features, np.float32))
            self.scale = tensor(np.ones(features, np.float32))

    def chosen(self, name: str, value: Any) -> None:
        """Enter in `config` the value that the model chose for an option left at None."""
        if name in self.config:  # a subclass may not have the option
            self.config[name] = value

    # -- training --------------------------------------------------------------------------------
    def loss(self, x: Array, rng: Generator) -> dict[str, Tensor]:
        """The terms of the loss on a batch of checked data; the first is what is minimised.

        A model with labels has `loss(self, x, labels=None, *, rng)`.
        """
        raise NotImplementedError

    def objectives(self) -> list[Objective]:
        """The objectives that one step of training minimises, in this order."""
        return [Objective("loss", self.named_parameters(), self.loss)]

    def optimizer(self, parameters: dict[str, Tensor], lr: Callable[[int], float]) -> Optimizer:
        """The optimiser for an objective."""
        return Adam(parameters, lr)

    def fit(
        self, x: Any, *labels: Any, settings: Settings | None = None, **options: Any
    ) -> History:
        """Train on the rows of x (n, features) and return the history of the losses.

        `labels` are for a model whose `prepare` takes them, and whose `loss` then gets theirs.

        Settings of `tinygen.training.Settings` may be given by name (steps=..., batch=..., lr=...,
        seed=...), and the options of `tinygen.training.train` (folder=..., resume=...,
        show_progress=...). ValueError: the data are not what the model takes.
        """
        prepare: Callable[..., Data] = self.prepare
        loop = inspect.signature(train).parameters
        run = {name: options.pop(name) for name in list(options) if name in loop}
        run["meta"] = {**self.description(), **(run.get("meta") or {})}
        with ranks_of(run.get("comm")).together():  # an error in the data of one of them ends all
            data = prepare(x, *labels)
            return train(self, data, (settings or self.defaults).changed(**options), **run)

    def prepare(self, x: Any) -> Data:
        """Check the training data, measure their scale if they are not bounded, return them.

        The tuple is what batches are taken of: (x,), or (x, labels) of a model with labels.
        """
        x = self.check(x)
        m = namespace_of(x)
        if not self.bounded:
            self.shift.data[...], std = moments(x)
            self.scale.data[...] = m.where(std > 0, std, 1.0)  # a constant feature stays 0
        return (x,)

    def watch(self, x: Array, settings: Settings) -> Callable[[], str | None]:
        """A function that the training loop on the data x calls from time to time.

        It returns one line of text when the state of the run has changed, else None. It must not
        change the run.
        """
        return lambda: None

    def finish(self, x: Array) -> None:
        """Measure what the model needs in addition to its parameters, on the training data x.

        Called at the end of the training and before each checkpoint.
        """

    # -- data ------------------------------------------------------------------------------------
    def check(self, x: Any) -> Array:
        """x as a float32 array (n, features) in C order.

        ValueError: a wrong shape, no rows, NaN or infinity, or values outside [0, 1] for a bounded
        model. TypeError: x is not on the model's device.
        """
        x = array_on(self.device, x, "the data", "the model")
        m = namespace_of(x)
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"data of shape {x.shape}; the model takes (n, {self.features})")
        if not len(x):
            raise ValueError("the data set is empty")
        x = m.ascontiguousarray(x, np.float32)
        low, high = x.min(), x.max()  # NaN if x holds a NaN; needs no memory, unlike isfinite(x)
        if not (m.isfinite(low) & m.isfinite(high)):
            row, column = m.argwhere(~m.isfinite(x))[0].tolist()
            raise ValueError(f"data[{row}, {column}] is {x[row, column]}; remove or replace it")
        if self.bounded and not (low >= 0 and high <= 1):
            raise ValueError(
                f"data from {float(low):g} to {float(high):g}; a bounded model takes [0, 1]: "
                f"rescale them, or make the model with {self.unbounded}"
            )
        return x

    def check_codes(self, z: Any) -> Array:
        """z as a float32 array. TypeError: z is not on the model's device."""
        return array_on(self.device, z, "the codes", "the model").astype(np.float32, copy=False)

    def normalise(self, x: Any) -> Any:
        """x (n, features) in the units in which the networks compute."""
        return x if self.bounded else (x - self.shift.data) / self.scale.data

    def denormalise(self, x: Any) -> Any:
        """The inverse of `normalise`."""
        return x if self.bounded else x * self.scale.data + self.shift.data

    def sample(self, n: int, *, rng: Rng | None = None, seed: int | None = None) -> Array:
        """n new rows (n, features) in the units of the data.

        rng: a generator or a seed. By default it is the generator that `tg.manual_seed` sets.
        seed: the same as a seed for `rng`.
        """
        raise NotImplementedError

    # -- files -----------------------------------------------------------------------------------
    def save(self, path: str | Path) -> None:
        """Write the model to an `.npz` file. `tinygen.models.load` reads it.

        ValueError: the model has other parts than its class makes from `config`, so the file could
        not be loaded. NonFiniteError: a parameter holds NaN or an infinity.
        """
        self._check_made_by_class()
        if name := not_finite(self.named_parameters()):
            raise NonFiniteError(f"{name} holds NaN or an infinity; {path} is not written")
        arrays = checkpoint.prefixed("model", self.state_dict())
        checkpoint.write(path, self.description(), arrays)

    def _check_made_by_class(self) -> None:
        name = type(self).__name__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when this model was made
            try:
                again = Model.classes_by_name[name](**self.config)
            except TypeError as error:  # another class of this name, or positional-only arguments
                raise ValueError(
                    f"a file names the class {name}, which does not take {list(self.config)}: {error}"
                ) from error
        if differing := _parts(self).items() ^ _parts(again).items():
            raise ValueError(
                f"{min(differing)[0]} is not as {name} makes it, so the file could not be "
                f"loaded: build it in the __init__ of a subclass, such as My{name}, and load with "
                f"My{name}.load"
            )

    def description(self) -> dict[str, Any]:
        """The class and arguments of this model, for a file."""
        return {"model": type(self).__name__, "config": self.config}

    @classmethod
    def weights(cls, config: Mapping[str, Any]) -> int:
        """A lower limit for the number of weights of a model with this config.

        A file must hold so many numbers: this is checked before the model takes memory.
        ValueError: a size in the config is not a whole number from 1.
        """
        sizes = [config["features"], *config.get("hidden", ()), config.get("latent", 1)]
        sizes = [whole("a size", size) for size in sizes]
        return sum(a * b for a, b in pairwise(sizes))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model of this class in a file that `save` or training wrote, ready to use.

        FileNotFoundError: no such file. CheckpointError: a model of another class, or not a
        checkpoint.
        """
        meta, arrays = checkpoint.read(path)
        if meta.get("model") != cls.__name__:
            raise CheckpointError(f"{path} holds a {meta.get('model')}, not a {cls.__name__}")
        return cls.from_file(path, meta, arrays)

    @classmethod
    def from_file(cls, path: str | Path, meta: dict[str, Any], arrays: dict[str, Array]) -> Self:
        """The model that the checkpoint at `path` describes, with averaged parameters where it has
        them; CheckpointError names the path."""
        taken = inspect.signature(cls.__init__).parameters
        if change := renamed(cls.__name__, meta.get("config", {}).keys() - taken):
            raise CheckpointError(f"{path} cannot be loaded by this version: {change}")
        state = checkpoint.section(arrays, "model")
        held = sum(a.size for a in state.values())
        try:
            # The user's own class may have other options of the same names.
            if cls.__module__.startswith("tinygen.") and cls.weights(meta["config"]) > held:
                raise ValueError(f"its config asks for more weights than the file's {held} numbers")
            model: Any = cls(**meta["config"])
            with np.errstate(over="raise"):  # for values too large for a parameter's dtype
                model.load_state_dict(state)
                for objective in {o.name: o for o in model.objectives()}.values():
                    average = checkpoint.section(arrays, f"ema/{objective.name}/average")
                    for name, p in objective.parameters.items():
                        if average:
                            p.data[...] = average[name]
            if name := not_finite(model.named_parameters()):
                raise ValueError(f"{name} holds NaN or an infinity")
        except checkpoint.WRONG_VALUES as error:
            raise CheckpointError(
                f"{path} holds no {cls.__name__} of this version: {error}"
            ) from error
        model.eval()
        return model


def _parts(module: Module) -> dict[str, Any]:
    """The shapes of a module's Tensors by path, and the classes of the modules in it."""
    kinds = {f"module {i}": type(m).__name__ for i, m in enumerate(module.modules())}
    return {path: getattr(v, "shape", ()) for path, v in module._members()} | kinds


def _plain(value: Any) -> Any:
    """A NumPy number as a Python number, which JSON can hold. Other values are unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def with_options_of(base: Callable[..., None], **defaults: Any) -> Callable[[Init], Init]:
    """Give `__init__(self, features, *, own=..., **options)` a signature with the options of `base`.

    The `config` of a model, the command line and `help` read the signature. They see all options by
    name. `defaults` are the default values that differ from those of `base`. An unknown option is a
    TypeError.
    """

    def decorate(init: Init) -> Init:
        *own, _ = inspect.signature(init).parameters.values()
        inherited = [
            p.replace(default=defaults.get(p.name, p.default))
            for p in inspect.signature(base).parameters.values()
            if p.name not in {o.name for o in own}
        ]

        @functools.wraps(init)
        def with_defaults(*args: Any, **options: Any) -> None:
            init(*args, **{**defaults, **options})

        shown: Any = with_defaults
        shown.__signature__ = inspect.Signature([*own, *inherited])
        return shown

    return decorate


def choose(what: str, choice: Any, options: Mapping[str, Any]) -> Any:
    """The entry of `options` with the name `choice`. An object or a function is returned as it is.

    A file cannot describe an object or a function, so a model with one cannot be saved.
    ValueError: an unknown name.
    """
    if isinstance(choice, str) and choice in options:
        return options[choice]
    if choice is None or isinstance(choice, (str, bool, int, float, list, dict)):
        raise unknown(what, choice, options)
    return choice


def count_of(n: Any) -> int:
    """n, a number of samples. ValueError: it is not a whole number from 1."""
    return whole("a number of samples", n)
