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
from tinygen.nn.spectral import SpectralLinear

__all__ = [
    "MLP", "Dropout", "Embedding", "LayerNorm", "Linear", "Module", "Sequential",
    "SpectralLinear", "TimeEmbedding", "glorot", "he", "orthogonal",
]  # fmt: skip
