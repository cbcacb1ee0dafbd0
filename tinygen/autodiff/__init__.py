"""The engine: Tensor, the backward pass, function transforms, checks, graph drawing."""

from tinygen.autodiff.engine import Tensor, operation, tensor
from tinygen.autodiff.gradcheck import gradcheck, gradgradcheck
from tinygen.autodiff.graph import graph_dot, graph_text
from tinygen.autodiff.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from tinygen.autodiff.transforms import (
    grad,
    gradients,
    hessian,
    hvp,
    jacobian,
    jvp,
    value_and_grad,
    vjp,
)  # fmt: skip
from tinygen.autodiff.trees import tree_map

__all__ = [
    "Tensor", "detect_anomaly", "enable_grad", "grad", "gradcheck", "gradgradcheck", "gradients",
    "graph_dot", "graph_text", "hessian", "hvp", "is_grad_enabled", "jacobian", "jvp", "no_grad",
    "operation", "tensor", "tree_map", "value_and_grad", "vjp",
]  # fmt: skip
