"""Optimisers, learning-rate schedules, gradient clipping and parameter averages."""

from tinygen.optim.averages import EMA, clip_global_norm
from tinygen.optim.optimisers import SGD, Adam, AdamW, Optimizer, RMSprop
from tinygen.optim.schedules import constant, cosine, step_decay, warmup

__all__ = [
    "EMA", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_global_norm", "constant",
    "cosine", "step_decay", "warmup",
]  # fmt: skip
