"""Modules, layers and initial weights."""

from tinygen.nn.init import glorot, he, orthogonal
from tinygen.nn.layers import (
    MLP,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Sequential,
    TimeEmbedding,
)  # fmt: skip
from tinygen.nn.module import Module

__all__ = [
    "MLP", "Dropout", "Embedding", "LayerNorm", "Linear", "Module", "Sequential",
    "TimeEmbedding", "glorot", "he", "orthogonal",
]  # fmt: skip
