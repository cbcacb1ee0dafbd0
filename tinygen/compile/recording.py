"""Arrays that record: a third array library, beside NumPy and CuPy.

A `Recorded` array answers NumPy's own protocols: a ufunc or function of NumPy that meets one comes
here, computes what it always does, and is noted as a Call. So the engine, run once on such arrays,
leaves the list of all that a step computes; views (slices, transposes, reshapes) are followed and
need no call. The values it computes with are copies: nothing outside the step is changed, and
nobody can look at them, since a program that follows from values would be of these values alone.
Also of arrays on the GPU these copies are NumPy's: a step is recorded without a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from math import prod
from operator import getitem, setitem
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinygen import backend
from tinygen.autodiff.anomaly import callers_line
from tinygen.autodiff.promotion import Boxed
from tinygen.backend import is_gpu_array, is_recorded, to_device
from tinygen.compile.program import (
    Call,
    Number,
    Program,
    Storage,
    View,
    address,
    leaves,
    map_leaves,
)  # fmt: skip
from tinygen.errors import CompileError
from tinygen.kernels import dispatch
from tinygen.kernels.signatures import signatures

__all__ = ["Recorded", "Recorder"]

NUMBERS = (bool, int, float)


def _asked(what: str) -> NoReturn:
    raise CompileError(
        f"{callers_line()} asks for {what}, which a compiled step does not know while it is recorded: "
        "keep it out of the step, or return the array and look at it afterwards"
    )


def _refuse(what: str) -> Callable[..., Any]:
    return lambda *args, **options: _asked(what)


def _recording() -> Recorder:
    if (found := backend.recorder.get()) is None:
        raise CompileError("a compiled step hands out what it returns; this array was left behind")
    return found


class Recorded(NDArrayOperatorsMixin):
    """An array in a step that is being recorded. `weak`: a number, which yields to arrays' dtypes."""

    __slots__ = ("_value", "storage", "weak")
    __array_priority__ = 1000.0

    def __init__(self, value: Any, storage: Storage | Number, weak: bool = False) -> None:
        self._value, self.storage, self.weak = value, storage, weak

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        if any(isinstance(x, Boxed) for x in inputs):
            return NotImplemented  # a Tensor on the right computes
        made = _recording().ufunc(ufunc, method, inputs, options)
        return made if out is None else _recording().write(out[0], made)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        form = FORMS.get(function.__name__) if function.__module__ == "numpy" else None
        return form(*args, **options) if form else _recording().other(function, args, options)

    def __getattr__(self, name: str) -> Any:
        """Other methods of arrays are functions of NumPy too: x.sum(axis=0) is m.sum(x, axis=0)."""
        if name in ("shape", "dtype", "ndim", "size", "strides", "itemsize", "nbytes", "flags"):
            return getattr(self._value, name)
        if name in ("item", "tolist", "tobytes", "data", "flat", "get"):
            _asked(f"the values of an array (.{name})")
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a recorded array has no attribute {name!r}")
        function = getattr(_recording().namespace, name)
        if name in ("reshape", "transpose"):  # which take numbers one by one as well
            return lambda *sizes: function(self, sizes[0] if len(sizes) == 1 else sizes or None)
        return partial(function, self)

    T = property(lambda self: np.transpose(self))

    def astype(self, dtype: Any, copy: bool = True) -> Recorded:
        same = self.dtype == dtype and not (copy or self.weak)
        return self if same else _recording().copy(self, dtype)

    def __getitem__(self, key: Any) -> Any:
        return _recording().item(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _recording().set_item(self, key, value)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<recorded {self.dtype}{list(self.shape)}>"

    __hash__ = object.__hash__
    __array__ = _refuse("the values of an array as NumPy's")
    __iter__ = _refuse("the rows of an array one by one")
    __bool__ = _refuse("the truth of an array")
    __float__ = __int__ = __index__ = __complex__ = _refuse("the value of an array as a number")


class OnGPU(Recorded):
    """One that stands for an array on the GPU."""

    __slots__ = ()


class Recorder:
    """What is recorded of one step, whose arrays are on `device`."""

    def __init__(self, device: str = "cpu") -> None:
        self.kind, self.namespace = RECORDED[device]
        self.library: Any = np if device == "cpu" else import_module("cupy")
        self.program = Program(device)
        self.drawn: list[Any] = []  # the values of the numbers, this time
        self._found: dict[Any, tuple[Any, Storage, Any]] = {}  # arrays outside, each with its copy
        self._leaves: dict[int, Any] = {}  # of the graph, whose gradients are left behind
        self._old: dict[int, Any] = {}  # gradients from before the step

    @contextmanager
    def recording(self) -> Iterator[None]:
        token = backend.recorder.set(self)
        # On the GPU no kernel computes while it is recorded, so values may be anything.
        try:
            with np.errstate(all=None if self.library is np else "ignore"):
                yield
        finally:
            backend.recorder.reset(token)
            for leaf in self._leaves.values():
                if leaf.grad is not None and isinstance(leaf.grad._data, Recorded):
                    leaf.grad = None

    # -- arrays and numbers from outside ----------------------------------------------------------
    def argument(self, array: Any) -> Recorded:
        """An argument of the step."""
        value = to_device(array.copy(), "cpu")
        self.program.arguments.append(Storage("argument", array.nbytes, start=address(value)))
        return self.kind(value, self.program.arguments[-1])

    def lift(self, x: Any) -> Any:
        """An array or the data of a Tensor as a recorded array: by reference, not as a constant."""
        if isinstance(x, Boxed):
            if isinstance(x._data, self.library.ndarray):
                self._watch(x)
            x = x._data
        if not isinstance(x, self.library.ndarray):
            if is_gpu_array(x) and not is_recorded(x):
                raise CompileError(
                    f"{callers_line()} meets an array on the GPU: a step that computes there is "
                    "recorded if an argument is an array there"
                )
            if isinstance(x, np.ndarray) and x.ndim:
                raise TypeError(
                    f'{callers_line()}: an array on the cpu meets arrays on the gpu; move it: .to("gpu")'
                )
            return x
        root = x
        while isinstance(root.base, self.library.ndarray):
            root = root.base
        place = address(root), root.nbytes
        if place not in self._found:
            copy = np.empty(root.nbytes, np.uint8)
            np.ndarray(root.shape, root.dtype, copy, 0, root.strides)[...] = to_device(root, "cpu")
            storage = Storage("outside", root.nbytes, root, address(copy))
            self._found[place] = root, storage, copy
        _, storage, copy = self._found[place]
        at = address(x) - address(root) if x.size else 0
        return self.kind(np.ndarray(x.shape, x.dtype, copy, at, x.strides), storage)

    def lifted(self, x: Any) -> Any:
        """An input of an operation, with a Tensor's array lifted in its place."""
        if not isinstance(x, Boxed):
            return self.lift(x)
        box = Boxed()
        box._data = self.lift(x)
        return box

    def _watch(self, tensor: Any) -> None:
        """Note a Tensor outside; a leaf, whose gradient the step will leave; and the gradient that it
        has before."""
        if id(tensor) in self._old:
            raise CompileError(
                f"{callers_line()} adds to a gradient from before: zero_grad() first"
            )
        self.program.boxes.setdefault(id(tensor), (tensor, tensor._data))
        node: Any = getattr(tensor, "node", None)
        if hasattr(node, "grad") and self._leaves.setdefault(id(node), node).grad is not None:
            self._old.setdefault(id(node.grad), node.grad)

    def varying(self, make: Callable[[], Any]) -> Any:
        """The number, or the tuple that begins with numbers, of `make` as inputs of the program."""
        made = make()
        count = len([x for x in made if x is not None]) if isinstance(made, tuple) else 0
        self.program.makers.append((make, count))
        return map_leaves(lambda x: None if x is None else self.number(x), made)

    def number(self, value: Any) -> Recorded:
        """A number as an input of the program."""
        whole = isinstance(value, int) and value >= 0
        number = Number(len(self.drawn), "whole" if whole else "number")
        self.program.numbers.append(number)
        self.drawn.append(value)
        return self.kind(np.asarray(value, np.uint64 if whole else None), number, weak=True)

    # -- how a call is noted ----------------------------------------------------------------------
    def view(self, x: Any) -> Any:
        """A recorded array as the program names it; constants as they are."""
        if not isinstance(x, Recorded) or isinstance(x.storage, Number):
            return x.storage if isinstance(x, Recorded) else x
        value, storage = x._value, x.storage
        at = address(value) - storage.start if value.size else 0
        return View(storage, value.dtype, value.shape, value.strides, at)

    def note(self, kind: str, function: Any, args: Any, outs: Any, **more: Any) -> None:
        """Enter a call; `more`: its name, options and dtypes."""
        args, outs, more = map_leaves(self.view, (args, outs, more))
        self.program.calls.append(Call(kind, function, args, outs, line=callers_line(), **more))

    def new(self, value: Any, kind: str = "own", weak: bool = False) -> Recorded:
        """A new array of the program, which the next call writes."""
        value = np.asarray(value)
        value = value if value.base is None or not value.size else value.copy()
        return self.kind(value, Storage(kind, value.nbytes, start=address(value)), weak)

    def make(self, kind: str, function: Any, args: Any, value: Any, **more: Any) -> Recorded:
        """A new array with this value, which the call computes."""
        target = self.new(value, weak=more.pop("weak", False))
        self.note(kind, function, args, [target], **more)
        return target

    def write(self, target: Any, value: Any) -> Any:
        """The value, broadcast and cast, into the array."""
        target, value = self.lift(target), self.lift(value)
        np.copyto(target._value, _value(value), casting="unsafe")
        self.note("copy", np.copyto, (value,), [target])
        return target

    # -- calls ------------------------------------------------------------------------------------
    def ufunc(self, ufunc: Any, method: str, inputs: Any, options: Any) -> Any:
        """A ufunc of NumPy or SciPy."""
        if method != "__call__" or options or ufunc.nout != 1:
            return self.other(getattr(ufunc, method), inputs, options, method == "at")
        inputs = tuple(self.lift(np.asarray(x) if isinstance(x, list) else x) for x in inputs)
        if ufunc is np.matmul:
            return self.product(*inputs)
        values = [_value(x) for x in inputs]
        result = np.asarray(ufunc(*values))
        weak = [x.weak if isinstance(x, Recorded) else type(x) in NUMBERS for x in inputs]
        kinds = [type(x) if w else np.asarray(x).dtype for x, w in zip(values, weak, strict=True)]
        dtypes = ufunc.resolve_dtypes((*kinds, None))
        if dtypes[-1] != result.dtype:  # NumPy 1 has other rules for arrays without axes
            dtypes = (result.dtype,) * len(dtypes)
        more = {"name": ufunc.__name__, "dtypes": dtypes, "weak": all(weak)}
        return self.make("ufunc", ufunc, inputs, result, **more)

    def other(self, function: Any, args: Any, options: Any, changes: bool = False) -> Any:
        """Any function: arrays that share memory with an argument are views of it, others are new.

        changes: it writes into its first argument instead.
        """
        args, options = map_leaves(self.lift, (args, options))
        given = [x for x in leaves((args, options)) if isinstance(x, Recorded)]
        result = function(*map_leaves(_value, args), **map_leaves(_value, options))
        name, new = getattr(function, "__name__", str(function)), [args[0]] if changes else []

        def wrap(x: Any) -> Any:
            if not isinstance(x, (np.ndarray, np.generic)):
                return _asked(f"what {name} finds") if isinstance(x, (bool, float)) else x
            for g in given if isinstance(x, np.ndarray) else ():
                if np.may_share_memory(x, g._value):
                    return self.kind(x, g.storage)
            made = self.new(x)
            new.extend([made] if made.size else [])  # else there is nothing to compute
            return made

        wrapped = map_leaves(wrap, result)
        if new:
            self.note("numpy", function, args, new, name=name, options=options)
        return wrapped

    def copy(self, x: Any, dtype: Any = None) -> Recorded:
        """The elements of x in new memory, in C order, perhaps of another dtype."""
        value = np.asarray(_value(x))
        return self.write(self.new(np.empty(value.shape, dtype or value.dtype)), x)

    def item(self, x: Recorded, key: Any) -> Any:
        key = map_leaves(self.lift, key)
        if _names_view(key):
            rest = (
                () if any(k is ... for k in _parts(key)) else (...,)
            )  # then a view, never a number
            return self.kind(x._value[(*_parts(key), *rest)], x.storage)
        for k in leaves(key):
            if isinstance(k, Recorded) and k.dtype == bool and k.storage.kind != "outside":  # type: ignore[union-attr]
                _asked("elements by a condition, so many as fulfil it; use where")
        rows = isinstance(key, Recorded) and key.dtype.kind in "iu"
        return self.take(x, key, 0) if rows else self.other(getitem, (x, key), {})

    def set_item(self, x: Recorded, key: Any, value: Any) -> None:
        if _names_view(key):
            self.write(self.item(x, key), value)
        else:
            self.other(setitem, (x, key, value), {}, changes=True)

    def take(self, x: Any, rows: Any, axis: int | None = None) -> Any:
        """Rows of x by their numbers."""
        x, rows = self.lift(x), self.lift(rows)
        if axis != 0:
            return self.other(np.take, (x, rows), {"axis": axis})
        return self.make("take", getitem, (x, rows), np.take(_value(x), _value(rows), axis=0))

    def reduce(self, name: str, x: Any, axis: Any = None, dtype: Any = None, out: None = None,
               keepdims: Any = False) -> Any:  # fmt: skip
        """A sum or an extreme along axes."""
        x, function = self.lift(x), getattr(backend.numpy_namespace, name)
        given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = tuple(sorted(a % x.ndim for a in given))
        if axes == tuple(range(len(axes))) and 0 < len(axes) < x.ndim - 1 and x.flags.c_contiguous:
            flat = _reshape(x, (prod(x.shape[: len(axes)]), prod(x.shape[len(axes) :])))
            made = self.reduce(name, flat, 0, dtype)
            return _reshape(made, (1,) * len(axes) * bool(keepdims) + x.shape[len(axes) :])
        options = {"axis": axes, "keepdims": True} | ({"dtype": dtype} if dtype else {})
        value = function(_value(x), **options)
        made = self.make("reduce", function, (x,), value, name=name, options=options)
        kept = [n for a, n in enumerate(made.shape) if a not in axes]
        return made if keepdims else self.kind(made._value.reshape(kept), made.storage)

    def product(self, a: Any, b: Any) -> Any:
        """A matrix product; matrices that BLAS cannot read where they lie are copied first."""
        if 1 in (a.ndim, b.ndim) and a.ndim <= 2 >= b.ndim:
            made = self.product(a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1))
            return _reshape(made, a.shape[:-1] + b.shape[1:])
        if not a.ndim == b.ndim == 2 or a.dtype != b.dtype or a.dtype.char not in "fd":
            return self.other(np.matmul, (a, b), {})
        a, b = (x if self.view(x).as_matrix() else self.copy(x) for x in (a, b))
        value = backend.numpy_namespace.matmul(a._value, b._value)
        return self.make("product", np.matmul, (a, b), value)

    def launch(self, name: str, *arguments: Any) -> None:
        """A kernel: what it writes are the pointers that are not const in kernels.h."""
        arguments = tuple(map(self.lift, arguments))
        launch = partial(dispatch.native() or _idle, name)
        launch(*map(_value, arguments))
        kinds = zip(arguments, [kind for kind, _ in signatures()[name]], strict=True)
        outs = [x for x, kind in kinds if kind[-1] == "*" and kind[:5] != "const" and x is not None]
        self.note("kernel", launch, arguments, outs, name=name)

    def stop_unless(self, condition: Any, what: str) -> None:
        """End the program here, before anything that follows, unless the condition is true."""
        self.note("stop", None, (condition,), [], name=f"stop unless {what}")


def _idle(name: str, *arguments: Any) -> None:
    """In the place of kernels for the CPU, where only the GPU has some: the copies keep what they have."""


def _value(x: Any) -> Any:
    return x if not isinstance(x, Recorded) else x._value.item() if x.weak else x._value


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _names_view(key: Any) -> bool:
    """True for a key of numbers, slices, None and Ellipsis."""
    plain = (int, np.integer, slice, type(None), type(...))
    return all(isinstance(k, plain) and not isinstance(k, bool) for k in _parts(key))


# -- the namespace: NumPy, with its own forms of what makes new arrays ------------------------------
def _filled(value: Any, shape: Any, dtype: Any = float) -> Any:
    return _recording().write(_recording().new(np.empty(shape, dtype)), value)


def _asarray(x: Any, dtype: Any = None) -> Any:
    if not isinstance(x, Recorded):
        array = _recording().library.asarray(x, dtype)
        # NumPy's functions take one on the GPU recorded.
        return array if isinstance(array, np.ndarray) else _recording().lift(array)
    return x.astype(dtype or x.dtype, copy=False)


def _contiguous(x: Any, dtype: Any = None) -> Any:
    x = _recording().lift(_asarray(x, dtype))
    return x if x.flags.c_contiguous else _recording().copy(x)


def _mean(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False
) -> Any:
    dtype = dtype or (None if x.dtype.kind == "f" else np.dtype(float))
    total = _recording().namespace.sum(x, axis, dtype, out, keepdims)
    return (total / (x.size // max(total.size, 1))).astype(dtype or x.dtype, copy=False)


def _reshape(x: Any, shape: Any, order: str = "C") -> Any:
    if not np.may_share_memory(np.reshape(x._value, shape), x._value):
        x = _recording().copy(x)
    return _recording().kind(np.reshape(x._value, shape), x.storage)


def _concatenate(xs: Any, axis: int = 0) -> Any:
    joined = np.concatenate([_value(x) for x in xs], axis)
    out, end = _recording().new(np.empty_like(joined)), 0
    for x in xs:
        start, end = end, end + x.shape[axis]
        out[(slice(None),) * (axis % out.ndim) + (slice(start, end),)] = x
    return out


def _tile(x: Any, times: tuple[int, ...]) -> Any:
    pairs = [(k, n) for k, n in zip(times, x.shape, strict=True)]
    out = _recording().new(np.empty([m for pair in pairs for m in pair], x.dtype))
    _recording().write(out, x.reshape([m for n in x.shape for m in (1, n)]))
    return _reshape(out, [k * n for k, n in pairs])


def _where(condition: Any, *choices: Any) -> Any:
    if not choices:
        _asked("the places where a condition holds")
    record = _recording()
    args = tuple(map(record.lift, (condition, *choices)))
    value = np.where(*map(_value, args))
    dtypes = (np.dtype(bool), *(value.dtype,) * 3)
    return record.make("ufunc", np.where, args, value, name="where", dtypes=dtypes)


def _clip(x: Any, low: Any = None, high: Any = None, out: Any = None) -> Any:
    x = x if low is None else np.maximum(x, low)
    x = x if high is None else np.minimum(x, high)
    return x if out is None else _recording().write(out, x)


FORMS: dict[str, Callable[..., Any]] = {
    "array": lambda x, dtype=None: _recording().copy(x, dtype), "asarray": _asarray,
    "copy": lambda x: _recording().copy(x), "ascontiguousarray": _contiguous,
    "empty": lambda shape, dtype=float: _recording().new(np.zeros(shape, dtype)),
    "empty_like": lambda x, dtype=None: _recording().new(np.zeros(x.shape, dtype or x.dtype)),
    "full": lambda shape, value, dtype=None: _filled(value, shape, dtype or np.asarray(_value(value)).dtype),
    "full_like": lambda x, value, dtype=None: _filled(value, x.shape, dtype or x.dtype),
    "zeros": partial(_filled, 0), "zeros_like": lambda x, dtype=None: _filled(0, x.shape, dtype or x.dtype),
    "ones": partial(_filled, 1), "ones_like": lambda x, dtype=None: _filled(1, x.shape, dtype or x.dtype),
    "sum": lambda *args, **options: _recording().reduce("sum", *args, **options), "mean": _mean,
    "max": lambda *args, **options: _recording().reduce("max", *args, **options),
    "min": lambda *args, **options: _recording().reduce("min", *args, **options),
    "reshape": _reshape, "ravel": lambda x: _reshape(x, -1), "concatenate": _concatenate,
    "where": _where, "tile": _tile, "clip": _clip,
    "take": lambda x, rows, axis=None: _recording().take(x, rows, axis),
    "copyto": lambda target, value: _recording().write(target, value),
    **dict.fromkeys(("nonzero", "unique", "flatnonzero", "argwhere"), _refuse("what it finds")),
}  # fmt: skip
MADE = ("arange", "eye", "identity", "indices", "linspace", "tri")  # of numbers alone: constants
FORMS |= {"amax": FORMS["max"], "amin": FORMS["min"]}


def _made(name: str, *args: Any, **options: Any) -> Any:
    if any(isinstance(x, Recorded) for x in args):  # the ends of a linspace
        return getattr(np, name)(*args, **options)
    return getattr(_recording().library, name)(*args, **options)


def _namespace(device: str, kind: Any) -> tuple[Any, Any]:
    """A kind of recorded arrays, and their namespace."""
    namespace: Any = backend._complete(np, device)
    vars(namespace).update(
        FORMS,
        **{name: partial(_made, name) for name in MADE},
        launch=lambda *arguments: _recording().launch(*arguments),
        call=lambda *arguments: _recording().other(*arguments),
    )
    backend.namespaces[kind] = namespace
    backend.recorded_types.add(kind)
    return kind, namespace


RECORDED = {"cpu": _namespace("cpu", Recorded), "gpu": _namespace("gpu", OnGPU)}
