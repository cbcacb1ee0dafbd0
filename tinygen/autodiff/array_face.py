"""The part of Tensor that is like a NumPy array: conversions, comparisons, copies, refused changes.

It is a mixin, so that engine.py is about gradients alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen.autodiff.promotion import Boxed, array_on, check_tensor
from tinygen.backend import check_device, namespace_of, to_device, vocabulary

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ArrayFace", "as_leaf", "as_method", "no_method", "operators_of_numpy"]

operators_of_numpy: dict[str, Callable[..., Any]] = {
    "equal": lambda a, b: b == a,
    "not_equal": lambda a, b: b != a,
    "less": lambda a, b: b > a,
    "less_equal": lambda a, b: b >= a,
    "greater": lambda a, b: b < a,
    "greater_equal": lambda a, b: b <= a,
}
"""tinygen's function for each ufunc name of NumPy, for operators with an ndarray on the left."""


IN_PLACE = (
    "a Tensor is not changed in place: use tg.where(mask, new, x) or tg.concatenate, "
    "or write to x.data of a leaf outside the graph"
)


METHODS = {
    "abs", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite", "isnan", "log", "log10",
    "log1p", "log2", "log_softmax", "logsumexp", "norm", "relu", "round", "sigmoid", "sign", "sin", "sinh",
    "softmax", "softplus", "sqrt", "square", "tan", "tanh",
}  # fmt: skip
"""Functions of one array that are methods of Tensor too: x.exp() is tg.exp(x)."""


class ArrayFace(Boxed):
    """The attributes and methods that a Tensor shares with NumPy's arrays."""

    __slots__ = ()

    node: Any

    # -- what it is ------------------------------------------------------------------------------
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
        """The device of the array: 'cpu' or 'gpu'."""
        return namespace_of(self.data).device

    @property
    def name(self) -> str | None:
        """A name for drawings of the graph and error messages. A constant has no name."""
        return None if self.node is None else self.node.name

    @name.setter
    def name(self, name: str | None) -> None:
        if self.node is None:
            raise ValueError("a constant is not in the graph: only others can be named")
        self.node.name = name

    @property
    def grad(self) -> Any:
        """The gradient that `backward` added up in a leaf. None before that, and for other Tensors.

        For the result of an operation there is a warning, because it never has a gradient here.
        """
        if self.is_leaf:
            return self.node.grad
        if self.node is not None:
            warnings.warn(
                f"the grad of a result (of {self.node.op.name}) is None: only leaves keep theirs; "
                "tg.gradients(y, x) gives that of any x",
                stacklevel=2,
            )
        return None

    @grad.setter
    def grad(self, gradient: Any) -> None:
        if not self.is_leaf:
            raise ValueError("only a leaf has a gradient; see tg.gradients for those of others")
        if gradient is not None:
            if not isinstance(gradient, ArrayFace) or gradient.shape != self.shape:
                what = f"{type(gradient).__name__} {list(getattr(gradient, 'shape', ()))}"
                raise ValueError(f"the gradient is a Tensor of shape {self.shape}, not {what}")
            check_device("the gradient", gradient.data, "its Tensor", self.device)
        self.node.grad = gradient

    # -- leaving the graph -----------------------------------------------------------------------
    def detach(self) -> Self:
        """The same values (no copy) as a constant: gradients do not flow through it."""
        return type(self)(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array, outside the graph. Not a copy, unless they are on the GPU."""
        return to_device(self.data, "cpu")

    def item(self) -> float | int | bool:
        """The value of a one-element Tensor as a Python number. ValueError: another size."""
        if self.data.size != 1:
            raise ValueError(f"item() takes a Tensor of one element, this has shape {self.shape}")
        return self.data.item()

    def tolist(self) -> Any:
        """The values as Python numbers in nested lists, outside the graph; of no axes, one number."""
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.numpy().__index__()

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(
                f"the truth of a Tensor of shape {self.shape} is ambiguous; use .any() or .all()"
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
        if copy is None:  # copy only if needed; np.array of NumPy 1 has no such option
            return np.asarray(self.data, dtype)
        return np.array(self.data, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        # NumPy calls this for `array @ t` and `np.float64(2) * t`; tinygen's operation answers.
        function = operators_of_numpy.get(ufunc.__name__)
        if function is not None and method == "__call__" and not options:
            return function(*inputs)
        return _by_numpy(ufunc, getattr(ufunc, method), inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _by_numpy(function, function, args, kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        """Give the array to another library, as in `torch.from_dlpack(t)`.

        The array is copied only if a stride is negative.
        """
        if self.node is not None:
            raise TypeError("another library would cut the graph silently: pass t.detach()")
        array = self.data
        if any(stride < 0 for stride in array.strides):  # PyTorch would crash the process
            if options.get("copy") is False:
                raise BufferError("a Tensor with a negative stride is not exported without a copy")
            array = array.copy()
        return array.__dlpack__(**options)

    # -- containers ------------------------------------------------------------------------------
    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("a 0-d Tensor has no length")
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # by identity, so that a Tensor can be the key of a table

    # -- in place: refused -----------------------------------------------------------------------
    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(IN_PLACE)

    def _refuse_in_place_on_leaf(self, symbol: str) -> None:
        if self.is_leaf:
            raise TypeError(
                f"x {symbol}= y would not update the leaf in place: write x = x {symbol} y for a new "
                f"Tensor, or x.data {symbol}= y (y.data on a GPU) to change the leaf outside the graph"
            )

    # `total += loss` makes a new Tensor. `w -= lr * g` on a leaf is a mistake: it raises an error.
    def __iadd__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("+")
        return self + other

    def __isub__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("-")
        return self - other

    def __imul__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("*")
        return self * other

    def __itruediv__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("/")
        return self / other

    def __ipow__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("**")
        return self**other

    def __ifloordiv__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("//")
        return self // other

    def __imod__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("%")
        return self % other

    def __imatmul__(self, other: Any) -> Any:
        self._refuse_in_place_on_leaf("@")
        return self @ other

    # -- comparisons: Boolean constants ----------------------------------------------------------
    # None is compared as NaN: it equals no number.
    def _compare(self, function: str, other: Any) -> Any:
        m = namespace_of(self.data)
        if not isinstance(other, (bool, int, float)):
            other = array_on(self.device, other, f"{function}: the right side")
        return type(self)(m.asarray(getattr(m, function)(self.data, other)))

    def __eq__(self, other: object) -> Any:
        return self._compare("equal", nan if other is None else other)

    def __ne__(self, other: object) -> Any:
        return self._compare("not_equal", nan if other is None else other)

    def __lt__(self, other: Any) -> Any:
        return self._compare("less", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("less_equal", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("greater", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("greater_equal", other)

    def __invert__(self) -> Any:
        return type(self)(~self.data)

    # -- copies ----------------------------------------------------------------------------------
    def _only_without_history(self, what: str) -> None:
        if self.node is not None and not self.is_leaf:
            raise TypeError(
                f"{what} the result of an operation would cut or double its graph; detach() it first"
            )

    def __copy__(self) -> Any:
        return type(self)(self.data, self.node)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self._only_without_history("deepcopy of")
        grad = copy.deepcopy(self.grad, memo)
        return _rebuild(type(self), self.data.copy(), self.is_leaf, self.name, grad)

    def __reduce__(self) -> Any:
        self._only_without_history("pickling")
        return _rebuild, (type(self), self.data, self.is_leaf, self.name, self.grad)

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="tensor(", threshold=20)
        extra = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        extra += "" if 0 < self.size <= 20 else f", shape={self.shape}"
        extra += "" if self.device == "cpu" else f", device={self.device!r}"
        if self.is_leaf:
            extra += ", requires_grad=True"
        elif self.node is not None:
            extra += f", from {self.node.op.name}"
        return f"tensor({values}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    if TYPE_CHECKING:
        # tinygen.ops adds these methods at run time. They stand here for type checkers and editors.
        T: Any

        @property
        def is_leaf(self) -> bool: ...

        def __init__(self, data: Any, node: Any = None) -> None: ...
        def __add__(self, other: Any) -> Any: ...
        def __radd__(self, other: Any) -> Any: ...
        def __sub__(self, other: Any) -> Any: ...
        def __rsub__(self, other: Any) -> Any: ...
        def __mul__(self, other: Any) -> Any: ...
        def __rmul__(self, other: Any) -> Any: ...
        def __truediv__(self, other: Any) -> Any: ...
        def __rtruediv__(self, other: Any) -> Any: ...
        def __pow__(self, other: Any) -> Any: ...
        def __rpow__(self, other: Any) -> Any: ...
        def __matmul__(self, other: Any) -> Any: ...
        def __rmatmul__(self, other: Any) -> Any: ...
        def __mod__(self, other: Any) -> Any: ...
        def __rmod__(self, other: Any) -> Any: ...
        def __floordiv__(self, other: Any) -> Any: ...
        def __rfloordiv__(self, other: Any) -> Any: ...
        def __and__(self, other: Any) -> Any: ...
        def __rand__(self, other: Any) -> Any: ...
        def __or__(self, other: Any) -> Any: ...
        def __ror__(self, other: Any) -> Any: ...
        def __xor__(self, other: Any) -> Any: ...
        def __rxor__(self, other: Any) -> Any: ...
        def __pos__(self) -> Any: ...
        def __neg__(self) -> Any: ...
        def __abs__(self) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...
        def all(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def any(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def argmax(self, axis: int | None = None, keepdims: bool = False) -> Any: ...
        def argmin(self, axis: int | None = None, keepdims: bool = False) -> Any: ...
        def argsort(self, axis: int | None = -1) -> Any: ...
        def abs(self) -> Any: ...
        def softmax(self, axis: Any = -1) -> Any: ...

        ceil = cos = cosh = erf = exp = expm1 = floor = isfinite = isnan = log = log10 = abs
        log1p = log2 = relu = sigmoid = sign = sin = sinh = softplus = sqrt = abs
        square = tan = tanh = abs
        log_softmax = softmax

        def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def norm(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def astype(self, dtype: Any) -> Any: ...
        def clip(self, low: Any = None, high: Any = None) -> Any: ...
        def cumprod(self, axis: int | None = None) -> Any: ...
        def cumsum(self, axis: int | None = None) -> Any: ...
        def dot(self, b: Any) -> Any: ...
        def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any: ...
        def flatten(self) -> Any: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def prod(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def ravel(self) -> Any: ...
        def repeat(self, repeats: Any, axis: int | None = None) -> Any: ...
        def reshape(self, *shape: Any) -> Any: ...
        def round(self, decimals: int = 0) -> Any: ...
        def squeeze(self, axis: Any = None) -> Any: ...
        def std(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Any: ...
        def swapaxes(self, axis1: int, axis2: int) -> Any: ...
        def to(self, device: str) -> Any: ...
        def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any: ...
        def transpose(self, *axes: Any) -> Any: ...
        def var(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any: ...


def as_leaf(value: Any) -> ArrayFace:
    """`value`; TypeError unless it is a Tensor, ValueError unless it is a leaf."""
    check_tensor("an input of backward()", value)
    if not value.is_leaf:
        raise ValueError("an input of backward() is no leaf; see tg.gradients for its gradient")
    return value


def as_method(name: str, function: Any) -> Any:
    """What Tensor has under the name of a function: the function, or what names it."""
    return function if name in METHODS else no_method(name)


def no_method(name: str) -> property:
    """A property whose error names the function to use instead of a method such as `x.exp()`.

    `__getattr__` would do the same, but it makes every attribute of Tensor slower.
    """

    def refuse(x: ArrayFace) -> None:
        raise AttributeError(f"'Tensor' object has no attribute {name!r}: write tg.{name}(x, ...)")

    return property(refuse)


def _by_numpy(function: Any, call: Callable[..., Any], args: Any, options: Any) -> Any:
    """What a function of NumPy makes of constants: of their arrays, which it may not change."""

    def inside(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(inside, x)) if type(x) in (list, tuple) else x
        if not isinstance(x, ArrayFace):
            return x
        if x.node is not None:
            raise _not_for_numpy(function)
        array = x.data
        if type(array) is np.ndarray:
            array = array.view()
            array.flags.writeable = False
        return array

    given, named = inside(args), {name: inside(x) for name, x in options.items()}
    try:
        return call(*given, **named)
    except ValueError as error:
        if "read-only" in str(error):
            raise TypeError(f"{_name_in_numpy(function)}: {IN_PLACE}") from None
        raise


def _name_in_numpy(function: Any) -> str:
    module = (getattr(function, "__module__", None) or "numpy").replace("numpy", "np", 1)
    return f"{module}.{function.__name__}"


def _not_for_numpy(function: Any) -> TypeError:
    name = function.__name__
    own = {"absolute": "abs", "amax": "max", "amin": "min"}.get(name, name)
    found = vars(vocabulary).get(own)
    instead = f"call tg.{found.__qualname__}, or " if found else ""
    return TypeError(
        f"{_name_in_numpy(function)} would cut the graph of a Tensor: "
        f"{instead}pass t.detach() to leave the graph"
    )


def _rebuild(kind: type, data: Any, leaf: bool, name: str | None, grad: Any) -> Any:
    rebuilt: Any = kind(data)
    rebuilt.requires_grad = leaf
    if leaf:
        rebuilt.name, rebuilt.grad = name, grad
    return rebuilt
