"""Arrays that record: a third array library, beside NumPy and CuPy.

A `Recorded` array answers NumPy's own protocols: a ufunc or function of NumPy that meets one comes
here, computes what it always does, and is noted as a Call. So the engine, run once on such arrays,
leaves the list of all that a step computes; views (slices, transposes, reshapes) are followed and
need no call. The values it computes with are copies: nothing outside the step is changed, and
nobody can look at them, since a program that follows from values would be of these values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinygen import backend
from tinygen.autodiff.anomaly import callers_line
from tinygen.autodiff.promotion import Boxed
from tinygen.compile.program import Call, Number, Program, Storage, View, leaves, map_leaves
from tinygen.kernels.signatures import signatures

__all__ = ["CompileError", "Recorded", "Recorder"]


class CompileError(RuntimeError):
    """A step cannot be recorded; the message names the line and says why."""


class Recorded(NDArrayOperatorsMixin):
    """An array in a step that is being recorded. `weak`: a number, which yields to arrays' dtypes."""

    __slots__ = ("_value", "storage", "weak")
    __array_priority__ = 1000.0

    def __init__(self, value: Any, storage: Storage | Number, weak: bool = False) -> None:
        self._value, self.storage, self.weak = value, storage, weak

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: self._value.ndim)
    size = property(lambda self: self._value.size)
    strides = property(lambda self: self._value.strides)
    itemsize = property(lambda self: self._value.itemsize)
    nbytes = property(lambda self: self._value.nbytes)
    flags = property(lambda self: self._value.flags)
    T = property(lambda self: np.transpose(self))

    def __repr__(self) -> str:
        return f"<recorded {self.dtype}{list(self.shape)}>"

    # -- what NumPy calls -------------------------------------------------------------------------
    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        if any(isinstance(x, Boxed) for x in inputs):
            return NotImplemented  # a Tensor on the right computes
        return _recording().ufunc(ufunc, method, inputs, None if out is None else out[0], options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _recording().call(function, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return _recording().item(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _recording().set_item(self, key, value)

    def __len__(self) -> int:
        return len(self._value)

    # -- methods of arrays ------------------------------------------------------------------------
    def astype(self, dtype: Any, copy: bool = True) -> Recorded:
        if not copy and self.dtype == dtype and not self.weak:
            return self
        return _recording().copy(self, dtype)

    def copy(self) -> Recorded:
        return _recording().copy(self)

    def reshape(self, *shape: Any) -> Any:
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> Any:
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Other methods of arrays are functions of NumPy too: x.sum(axis=0) is m.sum(x, axis=0)."""
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"a recorded array has no attribute {name!r}")
        if name in ("item", "tolist", "tobytes", "data", "dump", "flat"):
            _asked(f"the values of an array (.{name})")
        return partial(getattr(namespace, name), self)

    # -- what would need values -------------------------------------------------------------------
    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        _asked("the values of an array as NumPy's")

    def __iter__(self) -> NoReturn:
        _asked("the rows of an array one by one")

    def __bool__(self) -> NoReturn:
        _asked("the truth of an array")

    def __float__(self) -> NoReturn:
        _asked("the value of an array as a number")

    __int__ = __index__ = __complex__ = __float__
    __hash__ = object.__hash__


def _asked(what: str) -> NoReturn:
    raise CompileError(
        f"{callers_line()} asks for {what}, which a compiled step does not know while it is recorded: "
        "keep it out of the step, or return the array and look at it afterwards"
    )


def _recording() -> Recorder:
    found: Recorder | None = backend.recorder.get()
    if found is None:
        raise CompileError(
            "an array of a step that was recorded is used outside it; a compiled step hands out what "
            "it returns, and nothing else"
        )
    return found


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


class Recorder:
    """What is recorded of one step."""

    def __init__(self) -> None:
        self.namespace = namespace
        self.calls: list[Call] = []
        self.makers: list[Callable[[], Any]] = []
        self.numbers: list[Number] = []
        self.drawn: list[Any] = []  # the values of the numbers, this time
        self.boxes: dict[int, tuple[Any, Any]] = {}
        self.leaves: dict[int, Any] = {}  # of the graph, whose gradients are left behind
        self._found: dict[int, tuple[Any, Storage, Any]] = {}  # arrays outside, by their identity
        self._shadows: dict[Storage, Any] = {}  # the memory that stands for a storage, here
        self._old: dict[int, Any] = {}  # gradients from before the step

    @contextmanager
    def recording(self) -> Iterator[None]:
        token = backend.recorder.set(self)
        try:
            yield
        finally:
            backend.recorder.reset(token)
            self._clear_gradients()

    # -- arrays from outside ----------------------------------------------------------------------
    def argument(self, array: Any, position: int) -> Recorded:
        """An argument of the step."""
        storage = Storage("argument", array.nbytes, position)
        value = self._shadows[storage] = array.copy()
        return Recorded(value, storage)

    def lift(self, x: Any) -> Any:
        """An array or the data of a Tensor as a recorded array: by reference, not as a constant."""
        if isinstance(x, Boxed):
            array = x._data
            if isinstance(array, np.ndarray):
                self.boxes.setdefault(id(x), (x, array))
                if id(x) in self._old:
                    raise CompileError(
                        f"{callers_line()} adds to a gradient from before the step; "
                        "call zero_grad() first"
                    )
                self._watch(x)
            return self.lift(array)
        if not isinstance(x, np.ndarray):
            return x
        root = x
        while isinstance(root.base, np.ndarray):
            root = root.base
        if id(root) not in self._found:
            shadow = np.empty(root.nbytes, np.uint8)
            mirror = np.ndarray(root.shape, root.dtype, shadow, 0, root.strides)
            mirror[...] = root
            storage = Storage("outside", root.nbytes, root)
            self._found[id(root)] = root, storage, shadow
            self._shadows[storage] = shadow
        _, storage, shadow = self._found[id(root)]
        at = _address(x) - _address(root)
        return Recorded(
            np.ndarray(x.shape, x.dtype, shadow, at if x.size else 0, x.strides), storage
        )

    def lifted(self, x: Any) -> Any:
        """An input of an operation, with a Tensor's array lifted in its place."""
        if not isinstance(x, Boxed):
            return self.lift(x)
        box = Boxed()
        box._data = self.lift(x)
        return box

    def rebind(self, box: Any, array: Any) -> None:
        """`x.data = y` in a step: the values go into the array that x has."""
        own = self.lift(box)
        if not isinstance(array, Recorded) or own.shape != array.shape or own.dtype != array.dtype:
            raise CompileError(
                f"{callers_line()} puts another array in the place of a Tensor's data"
            )
        own[...] = array

    def _watch(self, tensor: Any) -> None:
        """Note a leaf, whose gradient the step will leave, and the gradient that it has before."""
        node = getattr(tensor, "node", None)
        if hasattr(node, "grad") and id(node) not in self.leaves:
            self.leaves[id(node)] = node
            if node.grad is not None:
                self._old[id(node.grad)] = node.grad

    def _clear_gradients(self) -> None:
        for node in self.leaves.values():
            if node.grad is not None and isinstance(node.grad._data, Recorded):
                node.grad = None

    def varying(self, make: Callable[[], Any]) -> Any:
        """The numbers that `make` gives, as inputs of the program."""
        made = make()
        self.makers.append(make)

        def of(value: Any) -> Any:
            return self.number(value) if isinstance(value, (int, float, np.generic)) else value

        return map_leaves(of, made)

    def number(self, value: Any) -> Recorded:
        number = Number(len(self.numbers), isinstance(value, int))
        self.numbers.append(number)
        self.drawn.append(value)
        return Recorded(
            np.asarray(value, np.uint64 if number.whole and value >= 0 else None), number, weak=True
        )

    def result(self, x: Recorded) -> View:
        """What the step returns: a copy in memory that the caller gets."""
        storage = Storage("result", x.nbytes)
        value = self._shadows[storage] = np.array(x._value, order="C")
        target = Recorded(value, storage)
        self.note("copy", "copy", np.copyto, (x,), {}, [target])
        return View(storage, value.dtype, value.shape, value.strides, 0)

    def program(self, results: list[View]) -> Program:
        arguments = [s for s in self._shadows if s.kind == "argument"]
        return Program(
            list(self.calls),
            self.makers,
            self.numbers,
            arguments,
            results,
            list(self.boxes.values()),
        )

    # -- views and values -------------------------------------------------------------------------
    def view(self, x: Any) -> Any:
        """A recorded array as the program names it; constants as they are."""
        if not isinstance(x, Recorded):
            return x
        if isinstance(x.storage, Number):
            return x.storage
        value = x._value
        at = _address(value) - _address(self._shadows[x.storage]) if value.size else 0
        return View(x.storage, value.dtype, value.shape, value.strides, at)

    def own(self, value: Any, weak: bool = False) -> Recorded:
        """A new array of the program, which the next call writes."""
        value = np.asarray(value)
        root = value if value.base is None or not value.size else value.copy()
        storage = Storage("own", root.nbytes)
        self._shadows[storage] = root
        return Recorded(root, storage, weak)

    def note(
        self,
        kind: str,
        name: str,
        function: Any,
        args: Any,
        options: Any,
        outs: Any,
        dtypes: Any = (),
    ) -> None:
        args, options = map_leaves(self.view, args), map_leaves(self.view, options)
        outs = [self.view(x) for x in outs]
        self.calls.append(Call(kind, name, function, args, options, outs, callers_line(), dtypes))

    # -- calls ------------------------------------------------------------------------------------
    def ufunc(self, ufunc: Any, method: str, inputs: Any, out: Any, options: Any) -> Any:
        """A ufunc of NumPy or SciPy."""
        if method == "at" or method != "__call__" or options or ufunc.nout != 1:
            return self.other(getattr(ufunc, method), inputs, options, out, changes=method == "at")
        if ufunc is np.matmul:
            return self.product(*inputs, out)
        inputs = [self.lift(np.asarray(x) if isinstance(x, list) else x) for x in inputs]
        target = None if out is None else self.lift(out)
        result = ufunc(*map(_value, inputs), out=None if target is None else target._value)
        kinds = tuple(
            type(_value(x)) if _is_weak(x) else np.asarray(_value(x)).dtype for x in inputs
        )
        dtypes = ufunc.resolve_dtypes((*kinds, None))
        if target is None:
            weak = all(map(_is_weak, inputs))
            target = self.own(result, weak)
            if dtypes[-1] != target.dtype:  # NumPy 1 has other rules for arrays without axes
                dtypes = (target.dtype,) * len(dtypes)
        self.note("ufunc", ufunc.__name__, ufunc, tuple(inputs), {}, [target], dtypes)
        return target

    def call(self, function: Any, args: Any, options: Any) -> Any:
        """A function of NumPy: as its lowered form, if there is one."""
        form = FORMS.get(function.__name__) if function.__module__ == "numpy" else None
        return self.other(function, args, options) if form is None else form(*args, **options)

    def other(
        self, function: Any, args: Any, options: Any, out: Any = None, changes: bool = False
    ) -> Any:
        """Any function: arrays that share memory with an argument are views of it, others are new.

        changes: it writes into its first argument instead.
        """
        args, options = map_leaves(self.lift, (args, options))
        given = [x for x in leaves((args, options)) if isinstance(x, Recorded)]
        name = getattr(function, "__name__", str(function))
        result = function(*map_leaves(_value, args), **map_leaves(_value, options))
        if changes:
            self.note("numpy", name, function, args, options, [args[0]])
            return None
        new: list[Recorded] = []

        def wrap(x: Any) -> Any:
            if not isinstance(x, (np.ndarray, np.generic)):
                if isinstance(x, (bool, float)):
                    _asked(f"what {name} finds in an array")
                return x
            of = [
                g for g in given if isinstance(x, np.ndarray) and np.may_share_memory(x, g._value)
            ]
            if of:
                return Recorded(x, of[0].storage)
            made = self.own(x)
            if made.size:  # else there is nothing to compute
                new.append(made)
            return made

        wrapped = map_leaves(wrap, result)
        if new:
            self.note("numpy", name, function, args, options, new)
        if out is not None:
            self.set_item(self.lift(out), ..., wrapped)
            return self.lift(out)
        return wrapped

    def copy(self, x: Any, dtype: Any = None) -> Recorded:
        """The elements of x in new memory, in C order, perhaps of another dtype."""
        x = self.lift(x)
        target = self.own(np.array(_value(x), dtype, order="C"))
        self.note("copy", "copy", np.copyto, (x,), {}, [target])
        return target

    def item(self, x: Recorded, key: Any) -> Any:
        key = map_leaves(self.lift, key)
        parts = [k for k in leaves(key) if isinstance(k, Recorded)]
        if any(k.dtype == bool and k.storage.kind != "outside" for k in parts):
            _asked("elements by a condition, of which the number depends on values; use where")
        if not parts and not _is_fancy(key):
            found = x._value[key]
            if isinstance(found, np.generic):  # of all axes: a view without axes
                found = x._value[(*key, ...) if isinstance(key, tuple) else (key, ...)]
            return Recorded(found, x.storage)
        if len(parts) == 1 and parts[0] is key and key.dtype.kind in "iu":
            return self.take(x, key)
        return self.other(_item, (x, key), {})

    def take(self, x: Any, rows: Any, axis: int | None = 0) -> Any:
        """Rows of x by their numbers."""
        x, rows = self.lift(x), self.lift(rows)
        if axis != 0 or not isinstance(rows, Recorded):
            return self.other(np.take, (x, rows), {"axis": axis})
        target = self.own(np.take(x._value, rows._value, axis=0))
        self.note("take", "take", _item, (x, rows), {}, [target])
        return target

    def set_item(self, x: Recorded, key: Any, value: Any) -> None:
        key, value = map_leaves(self.lift, key), self.lift(value)
        if _is_fancy(key):
            self.other(_set_item, (x, key, value), {}, changes=True)
            return
        target = self.item(x, key)
        np.copyto(target._value, _value(value), casting="unsafe")
        self.note("copy", "copy", np.copyto, (value,), {}, [target])

    def fill(self, shape: Any, value: Any, dtype: Any) -> Recorded:
        target = self.own(np.full(shape, _value(value), dtype))
        self.note("copy", "copy", np.copyto, (value,), {}, [target])
        return target

    def reduce(self, name: str, x: Any, axis: Any, keepdims: bool, dtype: Any = None) -> Any:
        """A sum or an extreme along axes."""
        x, function = self.lift(x), getattr(backend.numpy_namespace, name)
        axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        options = {"axis": tuple(sorted(a % x.ndim for a in axes)), "keepdims": True}
        options |= {"dtype": dtype} if dtype else {}
        target = self.own(function(_value(x), **options))
        self.note("reduce", name, function, (x,), options, [target])
        shape = [n for a, n in enumerate(target.shape) if a not in options["axis"]]
        return target if keepdims else Recorded(target._value.reshape(shape), target.storage)

    def product(self, a: Any, b: Any, out: Any = None) -> Any:
        """A matrix product; matrices that BLAS cannot read where they lie are copied first."""
        a, b = self.lift(a), self.lift(b)
        if not a.ndim == b.ndim == 2 or a.dtype != b.dtype or a.dtype.char not in "fd":
            return self.other(np.matmul, (a, b), {}, out)
        a, b = (x if is_matrix(self.view(x)) else self.copy(x) for x in (a, b))
        target = self.own(np.matmul(a._value, b._value))
        self.note("product", "matmul", np.matmul, (a, b), {}, [target])
        if out is not None:
            self.lift(out)[...] = target
            return self.lift(out)
        return target

    def launch(self, name: str, *arguments: Any) -> None:
        """A kernel: what it writes are the pointers that are not const in kernels.h."""
        arguments = tuple(map(self.lift, arguments))
        backend_launch = _native_launch()
        backend_launch(name, *map(_value, arguments))
        pairs = list(zip(signatures()[name], arguments, strict=True))
        outs = [
            x
            for (kind, _), x in pairs
            if kind.endswith("*") and x is not None and kind[:5] != "const"
        ]
        self.note("kernel", name, partial(backend_launch, name), arguments, {}, outs)

    def stop_unless(self, condition: Any, what: str) -> None:
        """End the program here, before anything that follows, unless the condition is true."""
        self.note("stop", f"stop unless {what}", _nothing, (condition,), {}, [])


def _native_launch() -> Any:
    from tinygen.kernels import dispatch

    return dispatch._found("cpu")[0]


def _nothing(*args: Any) -> None:
    """What a call does that the run itself looks at."""


def _is_fancy(key: Any) -> bool:
    """True unless a key names a view."""
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(k, (Recorded, list, bool, np.bool_)) for k in parts)


def _item(x: Any, key: Any) -> Any:
    return x[key]


def _set_item(x: Any, key: Any, value: Any) -> None:
    x[key] = value


def _value(x: Any) -> Any:
    if not isinstance(x, Recorded):
        return x
    return x._value.item() if x.weak else x._value


def _is_weak(x: Any) -> bool:
    return x.weak if isinstance(x, Recorded) else type(x) in (int, float, bool)


def is_matrix(x: View) -> bool:
    """True if BLAS can read a matrix where it lies: its rows, or its columns, are contiguous."""
    size = x.dtype.itemsize
    (rows, columns), (down, right) = x.shape, x.strides
    by_row = (right == size or columns == 1) and (rows == 1 or down >= columns * size)
    by_column = (down == size or rows == 1) and (columns == 1 or right >= rows * size)
    return (by_row or by_column) and down % size == right % size == x.offset % size == 0


# -- the namespace: NumPy, with its own forms of what makes new arrays ------------------------------
def _forms(module: ModuleType) -> dict[str, Any]:
    """Functions of NumPy in the calls that programs have."""

    def new(name: str, value: Any) -> dict[str, Any]:
        def make(shape: Any, dtype: Any = float) -> Any:
            return _recording().fill(shape, value, dtype)

        def like(x: Any, dtype: Any = None) -> Any:
            return _recording().fill(x.shape, value, dtype or x.dtype)

        return {name: make, f"{name}_like": like}

    def empty(shape: Any, dtype: Any = float) -> Any:
        return _recording().own(np.zeros(shape, dtype))

    def full(shape: Any, value: Any, dtype: Any = None) -> Any:
        return _recording().fill(shape, value, dtype or np.asarray(_value(value)).dtype)

    def asarray(x: Any, dtype: Any = None) -> Any:
        if not isinstance(x, Recorded):
            return np.asarray(x, dtype)
        strong = x if not x.weak else _recording().copy(x)
        return strong if dtype is None else strong.astype(dtype, copy=False)

    def contiguous(x: Any, dtype: Any = None) -> Any:
        x = asarray(x, dtype)
        return x if not isinstance(x, Recorded) or x.flags.c_contiguous else x.copy()

    def reduction(name: str) -> Any:
        def reduce(
            x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
        ) -> Any:
            return _recording().reduce(name, x, axis, keepdims, dtype)

        return reduce

    def mean(
        x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        if x.dtype.kind != "f" and dtype is None:
            dtype = np.dtype(float)
        total = _recording().reduce("sum", x, axis, keepdims, dtype)
        return (total / (x.size // max(total.size, 1))).astype(dtype or x.dtype, copy=False)

    def reshape(x: Any, shape: Any, order: str = "C") -> Any:
        flat = np.reshape(x._value, shape)
        if np.may_share_memory(flat, x._value) or not x.size:
            return Recorded(flat, x.storage)
        copied = _recording().copy(x)
        return Recorded(np.reshape(copied._value, shape), copied.storage)

    def concatenate(xs: Any, axis: int = 0, **options: Any) -> Any:
        record = _recording()
        xs = [record.lift(x) for x in xs]
        out = record.own(np.concatenate([_value(x) for x in xs], axis, **options))
        start, axis = 0, axis % out.ndim
        for x in xs:
            end = start + x.shape[axis]
            out[(slice(None),) * axis + (slice(start, end),)] = x
            start = end
        return out

    def pad(x: Any, widths: Any) -> Any:
        padded = np.pad(np.zeros(x.shape, bool), widths)
        out = module.zeros(padded.shape, x.dtype)
        pairs = np.broadcast_to(np.asarray(widths), (x.ndim, 2)).tolist()
        out[tuple(slice(b, b + n) for (b, _), n in zip(pairs, x.shape, strict=True))] = x
        return out

    def where(condition: Any, a: Any = None, b: Any = None) -> Any:
        if a is None:
            _asked("the places where a condition holds")
        record = _recording()
        condition, a, b = (record.lift(x) for x in (condition, a, b))
        target = record.own(np.where(_value(condition), _value(a), _value(b)))
        dtypes = (np.dtype(bool), target.dtype, target.dtype, target.dtype)
        record.note("ufunc", "where", np.where, (condition, a, b), {}, [target], dtypes)
        return target

    def clip(x: Any, low: Any = None, high: Any = None, **options: Any) -> Any:
        x = x if low is None else np.maximum(x, low)
        return x if high is None else np.minimum(x, high)

    def copyto(target: Any, value: Any, **options: Any) -> None:
        _recording().set_item(_recording().lift(target), ..., value)

    def refuse(name: str) -> Any:
        return lambda *a, **k: _asked(f"{name}, of which the size depends on values")

    return {
        **new("zeros", 0), **new("ones", 1), "full": full, "empty": empty,
        "empty_like": lambda x, dtype=None: empty(x.shape, dtype or x.dtype),
        "full_like": lambda x, value, dtype=None: full(x.shape, value, dtype or x.dtype),
        "array": lambda x, dtype=None: _recording().copy(x, dtype), "copy": lambda x: x.copy(),
        "asarray": asarray, "ascontiguousarray": contiguous,
        **{name: reduction(name) for name in ("sum", "max", "min")}, "amax": reduction("max"),
        "amin": reduction("min"), "mean": mean, "reshape": reshape, "concatenate": concatenate,
        "pad": pad, "where": where, "clip": clip, "copyto": copyto,
        "take": lambda x, rows, axis=None: _recording().take(x, rows, axis), "ravel": lambda x: reshape(x, -1),
        **{name: refuse(name) for name in ("nonzero", "unique", "flatnonzero", "argwhere")},
    }  # fmt: skip


namespace = backend._complete(np, "cpu")
FORMS = _forms(namespace)
vars(namespace).update(FORMS)
namespace.launch = lambda name, *arguments: _recording().launch(name, *arguments)
backend.namespaces[Recorded] = namespace
backend.recorded_types.add(Recorded)
