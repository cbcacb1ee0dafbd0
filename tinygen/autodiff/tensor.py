"""Tensor: an array that remembers what it came from.

A Tensor is one of three things, told apart by its `node`:

    constant   node is None     no gradient flows to it
    leaf       node is a Leaf   `backward` adds its gradient to `.grad`
    interior   node is a Node   the result of an operation; see operation.py

Nodes link to nodes, never to Tensors: an array that nobody needs any more is freed at once.

Operators and methods (`x + y`, `x.sum()`) are installed by `tinygen.ops`, which stands above.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen.backend import check_device, is_gpu_array, namespace_for, namespace_of, to_device

if TYPE_CHECKING:
    from tinygen.autodiff.operation import Node

__all__ = [
    "Leaf", "Tensor", "array_on", "as_array", "check_tensor", "from_dlpack", "is_number", "tensor",
]  # fmt: skip


class Leaf:
    """The node of a leaf: where gradients end."""

    __slots__ = ("dtype", "grad", "name", "shape")

    def __init__(self, array: Any, name: str | None = None) -> None:
        if array.dtype.kind != "f":
            raise TypeError(
                f"only floating-point Tensors have gradients, this is {array.dtype}; "
                "pass dtype=float"
            )
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self.grad: Tensor | None = None
        self.name = name

    def __repr__(self) -> str:
        return f"<leaf {self.dtype}{list(self.shape)}>"


# NumPy's ufunc name -> tinygen's function, for the operators of an ndarray on the left of a Tensor.
operators_of_numpy: dict[str, Callable[..., Any]] = {}


class Tensor:
    """An n-dimensional array with a place in the graph of a computation.

    Made by `tinygen.tensor` or by an operation. `data` is the NumPy or CuPy array itself, `grad` the
    gradient that `backward` accumulated (a Tensor of the same shape and dtype, or None).
    A Tensor is never changed in place; `data` of a leaf may be, between computations.
    """

    __slots__ = ("__weakref__", "_data", "node")  # the engine reads _data, users `data`

    def __init__(self, data: Any, node: Node | Leaf | None = None) -> None:
        if not hasattr(data, "dtype"):
            raise TypeError(f"make a Tensor of a {type(data).__name__} with tg.tensor(...)")
        self._data = data
        self.node = node

    # -- what it is ------------------------------------------------------------------------------
    @property
    def data(self) -> Any:
        """The NumPy or CuPy array itself. Another may be put in its place, outside the graph."""
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        if isinstance(array, np.generic):  # what NumPy makes of an array without axes
            array = np.asarray(array)
        if not (isinstance(array, np.ndarray) or is_gpu_array(array)):
            raise TypeError(
                f"the data of a Tensor is a NumPy or CuPy array, not {type(array).__name__}; "
                "write x.data = y.data for that of a Tensor y, x.data[...] = values for a list"
            )
        self._data = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._data.size

    @property
    def device(self) -> str:
        """Where the array lives: 'cpu' or 'gpu'."""
        return namespace_of(self.data).device

    @property
    def name(self) -> str | None:
        """A name for graph drawings and error messages; a constant has none."""
        return None if self.node is None else self.node.name

    @name.setter
    def name(self, name: str | None) -> None:
        if self.node is None:
            raise ValueError("a constant is not in the graph: only others can be named")
        self.node.name = name

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` accumulated in a leaf; None before, and for other Tensors.

        A warning where it is asked of the result of an operation, which has none.
        """
        if isinstance(self.node, Leaf):
            return self.node.grad
        if self.node is not None:
            warnings.warn(
                f"the grad of a result (of {self.node.op.name}) is None: only leaves keep theirs; "
                "tg.gradients(y, x) gives that of any x",
                stacklevel=2,
            )
        return None

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        if not isinstance(self.node, Leaf):
            raise ValueError("only a leaf has a gradient; see tg.gradients for those of others")
        if gradient is not None and (
            not isinstance(gradient, Tensor) or gradient.shape != self.shape
        ):
            what = f"{type(gradient).__name__} {list(getattr(gradient, 'shape', ()))}"
            raise ValueError(f"the gradient is a Tensor of shape {self.shape}, not {what}")
        if gradient is not None:
            check_device("the gradient", gradient.data, "its Tensor", self.device)
        self.node.grad = gradient

    @property
    def is_leaf(self) -> bool:
        """True for a Tensor that requires a gradient and is not the result of an operation."""
        return isinstance(self.node, Leaf)

    @property
    def requires_grad(self) -> bool:
        """True for leaves and for everything computed from one. May be set on leaves, constants."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._only_without_history("setting requires_grad of")
        if value != self.requires_grad:
            self.node = Leaf(self.data) if value else None

    def detach(self) -> Tensor:
        """The same values (no copy) as a constant: gradients do not flow through it."""
        return Tensor(self.data)

    # -- leaving the graph -----------------------------------------------------------------------
    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array, without gradient: no copy on the CPU, one from the GPU."""
        return to_device(self.data, "cpu")

    def item(self) -> float | int | bool:
        """The value of a one-element Tensor as a Python number; ValueError for any other size."""
        if self.data.size != 1:
            raise ValueError(f"item() takes a Tensor of one element, this has shape {self.shape}")
        return self.data.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.numpy().__index__()

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(
                f"the truth of a Tensor of shape {self.shape} is ambiguous; use .numpy().any() or .all()"
            )
        return bool(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.node is not None:
            raise TypeError(
                "converting a Tensor that requires a gradient to NumPy would cut the graph silently; "
                "write t.detach() or t.numpy(), or join Tensors with tg.stack"
            )
        if self.device != "cpu":
            raise TypeError("this Tensor is on the GPU: t.numpy() copies it to the CPU")
        if copy is None:  # if needed: NumPy 1 has no word for it
            return np.asarray(self.data, dtype)
        return np.array(self.data, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", ())
        plain = method == "__call__" and not options
        if plain and out and all(isinstance(a, np.ndarray) for a in out):  # `array -= constant`
            return ufunc(*[np.asarray(x) if isinstance(x, Tensor) else x for x in inputs], out=out)
        # `array @ t` and `np.float64(2) * t` arrive here and go to tinygen's own operation.
        function = operators_of_numpy.get(ufunc.__name__)
        if function is None or out or not plain:
            raise _not_for_numpy(ufunc)
        return function(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise _not_for_numpy(function)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        """The array for another library: `torch.from_dlpack(t)`. No copy, unless a stride is negative."""
        if self.node is not None:
            raise TypeError("another library would cut the graph silently: pass t.detach()")
        array = self.data
        if any(stride < 0 for stride in array.strides):  # PyTorch would end the process
            if options.get("copy") is False:
                raise BufferError("a Tensor with a negative stride is not exported without a copy")
            array = array.copy()
        return array.__dlpack__(**options)

    # -- containers ------------------------------------------------------------------------------
    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("a 0-d Tensor has no length")
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # by identity: a Tensor is a key of gradient tables

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "a Tensor is not changed in place: use tg.where(mask, new, x) or tg.concatenate, "
            "or write to x.data of a leaf outside the graph"
        )

    def _refuse_in_place_on_leaf(self, symbol: str) -> None:
        if self.is_leaf:
            raise TypeError(
                f"x {symbol}= y would not update the leaf in place: write x = x {symbol} y for a new "
                f"Tensor, or x.data {symbol}= y (y.data on a GPU) to change the leaf outside the graph"
            )

    # `total += loss` makes a new Tensor; `w -= lr * g` on a leaf is the mistake that this catches.
    def __iadd__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("+")
        return self + other

    def __isub__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("-")
        return self - other

    def __imul__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("*")
        return self * other

    def __itruediv__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("/")
        return self / other

    def __ipow__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("**")
        return self**other

    def __imatmul__(self, other: Any) -> Tensor:
        self._refuse_in_place_on_leaf("@")
        return self @ other

    # -- comparisons: Boolean constants ----------------------------------------------------------
    # None equals no number: nor does NaN.
    def _compare(self, function: str, other: Any) -> Tensor:
        m = namespace_of(self.data)
        if not isinstance(other, (bool, int, float)):
            other = array_on(self.device, other, f"{function}: the right side")
        return Tensor(m.asarray(getattr(m, function)(self.data, other)))

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare("equal", nan if other is None else other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compare("not_equal", nan if other is None else other)

    def __lt__(self, other: Any) -> Tensor:
        return self._compare("less", other)

    def __le__(self, other: Any) -> Tensor:
        return self._compare("less_equal", other)

    def __gt__(self, other: Any) -> Tensor:
        return self._compare("greater", other)

    def __ge__(self, other: Any) -> Tensor:
        return self._compare("greater_equal", other)

    def __invert__(self) -> Tensor:
        return Tensor(~self.data)

    # -- copies ----------------------------------------------------------------------------------
    def _only_without_history(self, what: str) -> None:
        if self.node is not None and not self.is_leaf:
            raise TypeError(
                f"{what} the result of an operation would cut or double its graph; detach() it first"
            )

    def __copy__(self) -> Tensor:
        return Tensor(self.data, self.node)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        self._only_without_history("deepcopy of")
        return _rebuild(self.data.copy(), self.is_leaf, self.name, copy.deepcopy(self.grad, memo))

    def __reduce__(self) -> Any:
        self._only_without_history("pickling")
        return _rebuild, (self.data, self.is_leaf, self.name, self.grad)

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="tensor(", threshold=20)
        extra = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        extra += "" if self.device == "cpu" else f", device={self.device!r}"
        if isinstance(self.node, Leaf):
            extra += ", requires_grad=True"
        elif self.node is not None:
            extra += f", from {self.node.op.name}"
        return f"tensor({values}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    # -- gradients -------------------------------------------------------------------------------
    def backward(
        self, gradient: Any = None, *, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this Tensor with respect to every leaf to that leaf's `.grad`.

        `gradient` is the gradient of the quantity of interest with respect to this Tensor, of its
        shape; it may be left out for a Tensor of one element, where it is 1. The values kept for
        the backward pass are freed unless `retain_graph`; with `create_graph` the gradients are
        themselves differentiable, at the price of a cycle in memory (a warning says so: prefer
        `tg.gradients`). ValueError: no graph, a wrong shape, or a history freed before.
        """
        from tinygen.autodiff.backward import backward

        if create_graph:
            warnings.warn(
                "backward(create_graph=True) leaves a cycle, from a leaf by its grad to the graph and "
                "back: free it by x.grad = None, or use tg.gradients(y, xs, create_graph=True)",
                stacklevel=2,
            )
        backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    if TYPE_CHECKING:
        # Installed by tinygen.ops; declared here for type checkers and editors.
        T: Tensor

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def clip(self, low: Any = None, high: Any = None) -> Tensor: ...
        def cumsum(self, axis: int | None = None) -> Tensor: ...
        def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def swapaxes(self, a: int, b: int) -> Tensor: ...
        def to(self, device: str) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def squeeze(self, axis: Any = None) -> Tensor: ...


def _not_for_numpy(function: Any) -> TypeError:
    import tinygen as tg  # only on the way to an error

    name = function.__name__
    module = (getattr(function, "__module__", None) or "numpy").replace("numpy", "np", 1)
    own = {"absolute": "abs", "amax": "max", "amin": "min"}.get(name, name)
    instead = f"call tg.{own}, or " if own in tg.__all__ else ""
    return TypeError(
        f"{module}.{name} does not take a Tensor: {instead}pass t.numpy() to leave the graph"
    )


def _rebuild(data: Any, leaf: bool, name: str | None, grad: Tensor | None) -> Tensor:
    rebuilt = tensor(data, requires_grad=leaf, name=name)
    if leaf:
        rebuilt.grad = grad
    return rebuilt


def check_tensor(what: str, value: Any) -> None:
    """TypeError, naming `what` it is, unless `value` is a Tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} is a Tensor, not {type(value).__name__}; "
            "make one with tg.tensor(..., requires_grad=True)"
        )


def as_array(value: Any) -> Any:
    """`value` as an array of numbers: the data of a Tensor, an array as it is, or a new array.

    TypeError for what does not make an array of real numbers or truth values.
    """
    if isinstance(value, Tensor):
        return value.data
    try:
        array = value if is_gpu_array(value) else np.asarray(value)
    except ValueError as error:  # ragged nesting
        raise TypeError(f"cannot make a Tensor of this {type(value).__name__}: {error}") from None
    if array is not value and isinstance(value, np.ndarray) and hasattr(value, "mask"):
        raise TypeError("a masked array would lose its mask; fill it first: a.filled(0.0)")
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"a Tensor holds real numbers or truth values, not {array.dtype} "
            f"(from {type(value).__name__})"
        )
    return array


def is_number(value: Any) -> bool:
    """True for what has a value and nothing else: Python's and NumPy's numbers, 0-d NumPy arrays."""
    return isinstance(value, (bool, int, float, np.generic)) or (
        isinstance(value, np.ndarray) and not value.ndim
    )


def array_on(device: str, value: Any, what: str, other: str = "the rest") -> Any:
    """`value` as an array on `device`; numbers and lists are put there.

    TypeError, which names `what` it is and the `other`: an array or Tensor on another device.
    """
    found = as_array(value)
    if isinstance(value, (list, tuple)) or is_number(value):
        return to_device(found, device)
    check_device(what, found, other, device)
    return found


def tensor(
    data: Any,
    *,
    requires_grad: bool = False,
    dtype: Any = None,
    name: str | None = None,
    device: str | None = None,
) -> Tensor:
    """A new Tensor with a copy of `data` (array, nested list, number or Tensor).

    An array that meets a Tensor without `tensor`, as in `t * array`, is not copied: change it only
    after the backward pass. `detect_anomaly` notices one that was changed before.

    Without `dtype` the rules are NumPy's: arrays keep theirs, Python floats are float64. Without
    `device` ("cpu" or "gpu") it is where `data` are. With `requires_grad` it is a leaf.
    TypeError: not numbers, or a gradient asked of an integer. DeviceError: no usable GPU.
    """
    array = as_array(data)
    m = namespace_of(array) if device is None else namespace_for(device)
    array = m.array(to_device(array, m.device), dtype=dtype)
    return Tensor(array, Leaf(array, name) if requires_grad else None)


def from_dlpack(array: Any) -> Tensor:
    """A constant on the memory of another library's array (PyTorch, JAX, CuPy, ...): no copy.

    It is on the device of that array. TypeError: neither on the CPU nor on a CUDA GPU, or not of
    real numbers or truth values, or nothing that speaks DLPack.
    """
    if not hasattr(array, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack takes an array of another library, not {type(array).__name__}; "
            "tg.tensor(...) copies lists and numbers"
        )
    cpu, cuda, managed = 1, 2, 13  # DLPack's numbers of kinds of memory
    kind = array.__dlpack_device__()[0]
    if kind not in (cpu, cuda, managed):
        raise TypeError(f"from_dlpack takes arrays in CPU or CUDA memory, not of DLPack's {kind}")
    return Tensor(as_array(namespace_for("cpu" if kind == cpu else "gpu").from_dlpack(array)))
