"""The engine: Tensor, the backward pass, function transforms, checks, graph drawing."""

from tinygen.autodiff.backward import gradients
from tinygen.autodiff.gradcheck import gradcheck, gradgradcheck
from tinygen.autodiff.graph import graph_dot, graph_text
from tinygen.autodiff.modes import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from tinygen.autodiff.operation import operation
from tinygen.autodiff.tensor import Tensor, from_dlpack, tensor
from tinygen.autodiff.transforms import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

__all__ = [
    "Tensor", "detect_anomaly", "enable_grad", "from_dlpack", "grad", "gradcheck", "gradgradcheck",
    "gradients", "graph_dot", "graph_text", "hessian", "hvp", "is_grad_enabled", "jacobian", "jvp",
    "no_grad", "operation", "tensor", "value_and_grad", "vjp",
]  # fmt: skip
