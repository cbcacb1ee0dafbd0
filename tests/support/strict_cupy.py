"""A strict stand-in for CuPy on NumPy's memory, for tests on machines without a GPU.

`installed()` puts it in the place of `cupy` and `cupyx`. It computes with NumPy, and refuses what
the real CuPy refuses: NumPy arrays among its operands, implicit conversion to NumPy, names that
CuPy has not and arguments that its functions do not take. The last two come from `cupy_names.txt`,
which was read off the real package:

    python -m tests.support.strict_cupy > tests/support/cupy_names.txt

Stricter than CuPy on purpose, where CuPy would copy to or from the GPU unasked or hide a mistake:
lists as indices and operands; `np.exp(array)`, which CuPy takes over; integer arrays out of range
as indices, which CuPy wraps around.

Stricter too: it counts as waits (`ndarray.waits`) every copy from the host, however small, and
every boolean array in an index, also where a number is assigned.

Streams, graphs and the pool, which hands a freed block to whoever asks next, are those of streams.py.
While a stream captures, the functions here compute nothing: the graph does at every launch.

It cannot show: other rounding, what two streams do at the same time, memory that runs out; speed,
and what it depends on: that a function's first call compiles it, and how many kernels a call
launches (`mean(axis=-1)` two, `copy()` one).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from operator import getitem, setitem
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special

from tests.support import cublas, streams
from tinygen import backend

RECORD = Path(__file__).with_name("cupy_names.txt")

# Parameters that take a list or tuple: of lengths and axes, or of arrays to join.
SEQUENCES = frozenset([
    "arrays", "arys", "axes", "axis", "constant_values", "destination", "indices_or_sections", "newshape",
    "pad_width", "reps", "shape", "shift", "source", "tup",
])  # fmt: skip
WAITING = frozenset(["argwhere", "flatnonzero", "nonzero", "unique"])  # for a result's length
RETURN_ARRAYS = frozenset(["allclose", "array_equal"])  # where NumPy returns a bool
ORDER = "forward"  # of the threads of a kernel
CHANGING = frozenset(["fill", "sort", "partition", "put"])  # methods that write into their array
BY_CUBLAS = frozenset(["matmul", "dot", "einsum", "inner", "outer", "tensordot", "vdot"])
COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}  # fmt: skip
SCALARS = (bool, int, float, complex, np.generic)


# -- the record of the real package --------------------------------------------------------------
UFUNC = inspect.signature(lambda *args, out=None, dtype=None, casting=None: None)
LIBRARIES = {"cupy": np, "cupy.linalg": np.linalg, "cupyx.scipy.special": scipy.special}


def record() -> Iterator[str]:
    """The real package's version, its public names (functions with their parameters), and the
    attributes of its arrays: a line each."""
    cupy = importlib.import_module("cupy")
    yield f"# CuPy {cupy.__version__}"
    for name in LIBRARIES:
        module = importlib.import_module(name)
        for public in sorted(dir(module)):
            value = getattr(module, public)
            if not public.startswith("_") and not inspect.ismodule(value):
                yield f"{name}.{public}{_parameters(value)}"
    yield from (f"cupy.ndarray.{name}" for name in sorted(dir(cupy.ndarray)) if name[0] != "_")


def _parameters(value: Any) -> str:
    if type(value).__name__ == "ufunc":
        return " ufunc"
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    empty = inspect.Parameter.empty
    plain = [
        p.replace(annotation=empty, default=empty if p.default is empty else 0)
        for p in signature.parameters.values()
    ]
    return "" if isinstance(value, type) else str(inspect.Signature(plain))


@functools.cache
def names() -> dict[str, inspect.Signature | None]:
    """The record: full names, with parameters where they are known."""
    found: dict[str, inspect.Signature | None] = {}
    for line in RECORD.read_text().splitlines():
        name, bracket, rest = line.partition("(")
        word = name.removesuffix(" ufunc")
        found[word] = UFUNC if word != name else None
        if bracket:
            scope: dict[str, Any] = {}
            exec(f"def function({rest}: pass", scope)
            found[name] = inspect.signature(scope["function"])
    return found


# -- in and out of NumPy -------------------------------------------------------------------------
def _inside(value: Any) -> Any:
    """What NumPy computes with in the place of an operand."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _argument(value: Any, sequence: bool) -> Any:
    """The same for an argument of a function, which may also be None, a word, a dtype, ..."""
    if isinstance(value, (list, tuple)) and sequence:
        return type(value)(_argument(v, True) for v in value)
    is_object = not isinstance(value, type)
    if isinstance(value, (list, tuple)) or (is_object and hasattr(value, "__array__")):
        return _inside(value)
    return value


def _outside(result: Any, given: Sequence[Any] = ()) -> Any:
    """A result of NumPy's as CuPy has it: an array also without axes, never a NumPy scalar.

    An array that was given comes back as the same object.
    """
    if isinstance(result, (tuple, list)):
        kind = list if isinstance(result, list) else tuple  # not one with names
        return kind(_outside(r, given) for r in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    for value in given:
        if isinstance(value, ndarray) and value._array is result:
            return value
    array = object.__new__(ndarray)
    array._array = streams.own(np.asarray(result))
    return array


def _compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What NumPy computes; CuPy does not warn of overflow and division by zero."""
    stream = streams.current()
    if not stream.is_capturing():
        stream.do()
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    if name in BY_CUBLAS or (module == "numpy.linalg" and name != "norm"):
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )
    return _captured(stream, function, args, kwargs)


def _captured(stream: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """New arrays, which the graph fills at every launch; now they hold whatever was there."""

    def later(*targets: Any) -> None:
        with np.errstate(all="ignore"):
            found = function(*given[0], **given[1])
        for target, x in zip(targets, _listed(found) if targets else (), strict=True):
            target[...] = x

    given = streams.unowned(args), streams.unowned(kwargs)
    if kwargs.get("out") is not None:
        stream.queue(later)
        return kwargs["out"]
    with np.errstate(all="ignore"):
        shaped = _listed(function(*args, **kwargs))
    if all(streams.on_device(x) for x in shaped):  # views
        return shaped[0] if len(shaped) == 1 else shaped
    made = [streams.new(np.shape(x), np.asarray(x).dtype) for x in shaped]
    targets = streams.unowned(made)
    stream.queue(lambda: later(*targets))
    return made[0] if len(made) == 1 else made


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


def _change(function: Callable[..., Any], *args: Any) -> None:
    """Let the function write into its arguments, now or when the stream comes to it."""
    given = streams.unowned(args)

    def work() -> None:
        with np.errstate(all="ignore"):
            function(*given)

    streams.current().queue(work)


@functools.cache
def _places(name: str, count: int, keywords: tuple[str, ...]) -> list[str]:
    """The parameters of CuPy's function `name` that so many arguments are given to, "" for *args.

    TypeError: it does not take them.
    """
    signature = names()[name]
    if signature is None:
        return [""] * count
    signature.bind(*[None] * count, **dict.fromkeys(keywords))
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p.name for p in signature.parameters.values() if p.kind in kinds]
    return [*positional, *[""] * count][:count]


def _call(
    function: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """A function of NumPy's with what CuPy's function `name` takes."""
    places = _places(name, len(args), tuple(kwargs))
    inside = [_argument(a, p in SEQUENCES) for a, p in zip(args, places, strict=True)]
    options = {k: _argument(v, k in SEQUENCES) for k, v in kwargs.items()}
    return _outside(_compute(function, *inside, **options), [*args, *kwargs.values()])


# -- the array -----------------------------------------------------------------------------------
class ndarray:
    """CuPy's array, on NumPy's memory."""

    __slots__ = ("__weakref__", "_array")
    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None
    ) -> None:
        if memptr is None:
            self._array = streams.new(shape, dtype, strides)
        else:
            at = memptr.ptr - streams.address(memptr.mem)
            self._array = np.ndarray(shape, dtype, memptr.mem, at, strides)

    def __getattr__(self, name: str) -> Any:
        """Methods and attributes that are NumPy's as well."""
        if f"cupy.ndarray.{name}" not in names() or name == "flat":
            raise AttributeError(f"cupy.ndarray has no {name!r}, or the stand-in has not")
        value = getattr(self._array, name)
        if not callable(value):
            return _outside(value)

        def method(*args: Any, **kwargs: Any) -> Any:
            if name in WAITING:
                _wait(name)
            if name in CHANGING:
                return _change(getattr(np.ndarray, name), self._array, *map(_inside, args))
            function = names().get(f"cupy.{name}")
            for keyword in kwargs:
                if function is not None and keyword not in function.parameters:
                    raise TypeError(f"cupy.ndarray.{name} takes no {keyword!r}")
            inside = [_argument(a, not hasattr(a, "__array__")) for a in args]
            options = {k: _argument(v, True) for k, v in kwargs.items()}
            result = _compute(value, *inside, **options)
            return _outside(result, [self, *args, *kwargs.values()])

        return method

    # These are asked for most often.
    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)

    # -- memory
    @property
    def data(self) -> Any:
        return streams.MemoryPointer(streams.memory_of(self._array), self._array.ctypes.data)

    @property
    def base(self) -> ndarray | None:
        base = self._array.base  # of one that owns its memory: the block of a pool
        return _outside(base) if isinstance(base, np.ndarray) else None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": (self._array.ctypes.data, False), "version": 3}

    @property
    def flags(self) -> Any:
        names = ("c_contiguous", "f_contiguous", "owndata")
        return SimpleNamespace(**{n: getattr(self._array.flags, n) for n in names})

    # -- the ways out and in, all explicit: whoever takes one waits for the GPU. So does an array
    # whose length depends on values.
    waits = 0

    def get(self) -> np.ndarray[Any, Any]:
        _wait("get")
        return self._array.copy()

    def tolist(self) -> Any:
        return self.get().tolist()

    def item(self) -> Any:
        return self.get().item()

    def set(self, values: np.ndarray[Any, Any]) -> None:
        if values.dtype != self.dtype or values.shape != self.shape:
            raise ValueError("set takes an array of the same shape and dtype")
        _wait("set")
        self._array[...] = values

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """A NumPy scalar on the left, or an operand that may take the operation over."""
        for value in inputs:
            if not isinstance(value, (ndarray, np.ndarray, *SCALARS)):
                return NotImplemented
        mixed = len(inputs) == 2 and any(isinstance(v, (np.ndarray, *SCALARS)) for v in inputs)
        if not mixed or method != "__call__" or options:
            raise TypeError(f"call cupy.{ufunc.__name__}, not np.{ufunc.__name__}")
        if ufunc.__name__ in COMPARISONS.values():  # NumPy makes arrays of scalars here
            inputs = tuple(
                v.item() if isinstance(v, np.ndarray) and not v.ndim else v for v in inputs
            )
        return _outside(_compute(ufunc, *map(_inside, inputs)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"call cupy.{function.__name__}, not np.{function.__name__}")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # CUDA, the first GPU

    def __dlpack__(self, **options: Any) -> Any:
        return self  # to be taken apart by `from_dlpack` below alone: no one else reads this memory

    # -- containers
    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        inside = _key(key)
        if all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in inside):
            inside = (*inside, ...)  # a single element is a view without axes
        return _outside(_compute(getitem, self._array, inside))

    def __setitem__(self, key: Any, value: Any) -> None:
        _change(setitem, self._array, _key(key), _inside(value))

    # -- Python's own
    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __copy__(self) -> ndarray:
        return _outside(_compute(np.copy, self._array))

    def __deepcopy__(self, memo: Any) -> ndarray:
        return _outside(_compute(np.copy, self._array))

    def __reduce__(self) -> Any:
        return _array, (self.get(),)


def _wait(what: str) -> None:
    """The host waits for the current stream."""
    streams.not_captured(what)
    streams.current().do()
    ndarray.waits += 1


def _array(values: np.ndarray[Any, Any]) -> ndarray:
    return _outside(values.copy())


def _key(key: Any) -> tuple[Any, ...]:
    """An index for NumPy."""
    parts = key if isinstance(key, tuple) else (key,)
    masks = sum(isinstance(k, ndarray) and k.dtype == bool for k in parts)
    for _ in range(masks):
        _wait("a boolean array as an index")
    if masks > 1:
        raise IndexError("CuPy takes one boolean array in an index")
    if any(isinstance(k, ndarray) and k.dtype.kind not in "iub" for k in parts):
        raise IndexError("arrays used as indices must be of integer or boolean type")
    plain = (slice, type(None), type(Ellipsis))
    return tuple(k if isinstance(k, plain) else _inside(k) for k in parts)


def _install_operators() -> None:
    binary = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
        "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul",
        "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift",
        "rshift": "right_shift",
    }  # fmt: skip
    for word, ufunc in binary.items():
        setattr(ndarray, f"__{word}__", _operator(ufunc))
        setattr(ndarray, f"__r{word}__", _operator(ufunc, swapped=True))
        setattr(ndarray, f"__i{word}__", _in_place(f"__i{word}__"))
    for word, ufunc in COMPARISONS.items():
        setattr(ndarray, f"__{word}__", _operator(ufunc))
    for word in ("neg", "pos", "abs", "invert"):
        name = f"__{word}__"
        function = getattr(operator, name)
        setattr(ndarray, name, lambda self, f=function: _outside(_compute(f, self._array)))


def _operator(name: str, swapped: bool = False) -> Callable[..., Any]:
    ufunc = getattr(np, name)

    def method(self: ndarray, other: Any) -> Any:
        pair = (other, self) if swapped else (self, other)
        foreign = not isinstance(other, (ndarray, np.ndarray, list, tuple, *SCALARS))
        if foreign and getattr(other, "__array_ufunc__", None) is None:
            return NotImplemented
        if foreign:
            return ufunc(*pair)  # as CuPy: NumPy asks the other operand
        return _outside(_compute(ufunc, *map(_inside, pair)))

    return method


def _in_place(name: str) -> Callable[..., Any]:
    def method(self: ndarray, other: Any) -> Any:
        # CuPy leaves nothing to another operand here.
        _change(getattr(operator, name), self._array, _inside(other))
        return self

    return method


_install_operators()


# -- functions -----------------------------------------------------------------------------------
class _Ufunc:
    """A ufunc: called as a function, and `at`."""

    calls = 0

    def __init__(self, name: str, ufunc: Any) -> None:
        self.__name__, self._ufunc = name, ufunc

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call(self._ufunc, self.__name__, args, kwargs)

    def at(self, a: ndarray, indices: Any, b: Any) -> None:
        if not self.__name__.endswith((".add", ".subtract", ".maximum", ".minimum")):
            raise NotImplementedError(f"`{self.__name__}.at` is not supported yet")
        if not isinstance(a, ndarray):
            raise TypeError(f"Unsupported type {type(a)}")
        # Its atomic operations come in any order: here backwards at every second call.
        _Ufunc.calls += 1
        _change(self._at, a._array, _key(indices), _inside(b))

    def _at(self, a: Any, key: Any, b: Any) -> None:
        places = np.arange(a.size).reshape(a.shape)[key]
        values = np.broadcast_to(b, places.shape).reshape(-1)
        result = a.reshape(-1).copy()
        order = slice(None, None, (-1) ** _Ufunc.calls)
        self._ufunc.at(result, places.reshape(-1)[order], values[order])
        a[...] = result.reshape(a.shape)


def _find(module: str, name: str) -> Any:
    full = f"{module}.{name}"
    if full not in names():
        raise AttributeError(f"{module} has no {name!r}")
    value = getattr(LIBRARIES[module], name)
    if isinstance(value, np.ufunc):
        return _Ufunc(full, value)
    if isinstance(value, type) or not callable(value):
        return value

    @functools.wraps(value)
    def function(*args: Any, **kwargs: Any) -> Any:
        if name in WAITING:
            _wait(name)
        result = _call(value, full, args, kwargs)
        return _outside(np.asarray(result)) if name in RETURN_ARRAYS else result

    return function


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None) -> ndarray:
    """The way in: an array of this library as it is, any other value copied."""
    if isinstance(a, ndarray):
        return _outside(_compute(np.asarray, a._array, dtype, order), [a])
    _wait("asarray of the host's memory")
    return _outside(np.array(a, dtype, order=order or "K"))


def array(
    obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", ndmin: int = 0
) -> ndarray:
    """The way in, with a copy."""
    if isinstance(obj, ndarray):
        return _outside(_compute(np.array, obj._array, dtype, order=order, ndmin=ndmin))
    _wait("array of the host's memory")
    return _outside(np.array(obj, dtype, order=order, ndmin=ndmin))


def asnumpy(a: Any) -> np.ndarray[Any, Any]:
    """The way out."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if not isinstance(condition, ndarray):  # it calls condition.astype
        raise AttributeError(f"{type(condition).__name__!r} object has no attribute 'astype'")
    if x is None and y is None:
        return condition.nonzero()
    return _outside(_compute(np.where, condition._array, _inside(x), _inside(y)))


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    if array.__dlpack_device__()[0] != 2:
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    return _outside(array.__dlpack__()._array[...])


def cholesky(a: ndarray) -> ndarray:
    """It never raises: of a matrix that has no factor it gives what was computed by then."""
    streams.not_captured("cuSOLVER")
    factors = a._array.copy()
    for index in np.ndindex(factors.shape[:-2]):
        potrf = scipy.linalg.lapack.get_lapack_funcs("potrf", [factors])
        factors[index], _ = potrf(factors[index], lower=True, clean=True)
    return _outside(factors)


class RawModule:
    """Kernels in CUDA, compiled for the CPU."""

    def __init__(self, *, code: str, options: Sequence[str] = (), backend: str = "nvrtc") -> None:
        from tests.support.cuda_on_cpu import (  # a compiler is needed only here
            FROM_CUPY,
            run_kernel_source,
        )

        self._module = run_kernel_source(code, (*options, *FROM_CUPY))

    def compile(self) -> None:
        """Done already."""

    def get_function(self, name: str) -> Callable[..., None]:
        kernel = self._module.prepared(name)

        def launch(
            grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], **options: Any
        ) -> None:
            work = kernel(grid, block, [_kernel_argument(a) for a in args], ORDER)
            streams.current().queue(work)

        return launch


def _kernel_argument(value: Any) -> Any:
    """By CuPy's rules: Python's numbers become float64 and int64, arrays their memory."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, (bool, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.size == 1:  # by value
        return value
    if isinstance(value, (int, float)):
        return np.float64(value) if isinstance(value, float) else np.int64(value)
    raise TypeError(f"Unsupported type {type(value)}")


# -- the modules ---------------------------------------------------------------------------------
OWN = {
    f.__name__: f
    for f in (ndarray, asarray, array, asnumpy, where, from_dlpack, RawModule)
}  # fmt: skip


def _modules() -> dict[str, ModuleType]:
    modules = {
        name: ModuleType(name)
        for name in (
            "cupy",
            "cupy.cuda",
            "cupy.linalg",
            "cupyx",
            "cupyx.scipy",
            "cupyx.scipy.special",
            "cuda",
            "cuda.pathfinder",
        )
    }
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)  # by which others see that it is installed
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
        if name in LIBRARIES:
            vars(module)["__getattr__"] = functools.partial(_find, name)
    vars(modules["cupy.linalg"]).update(cholesky=cholesky)
    vars(modules["cupy"]).update(OWN, is_available=lambda: True, __version__="stand-in")
    device = SimpleNamespace(
        id=0, attributes={"MultiProcessorCount": 2}, synchronize=lambda: streams.current().do()
    )
    vars(modules["cupy.cuda"]).update(
        is_available=lambda: True, get_current_stream=streams.current, Device=lambda: device,
        Stream=streams.Stream, Event=streams.Event, Graph=streams.Graph,
        MemoryPool=streams.MemoryPool, using_allocator=streams.using_allocator,
    )  # fmt: skip
    vars(modules["cuda.pathfinder"]).update(load_nvidia_dynamic_lib=cublas.found)
    return modules


@contextmanager
def installed() -> Iterator[ModuleType]:
    """The stand-in as `cupy` inside the block; what was there before comes back."""
    modules = _modules()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    backend.gpu_problem.cache_clear()
    try:
        yield modules["cupy"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        backend.gpu_problem.cache_clear()


if __name__ == "__main__":
    print("\n".join(record()))
