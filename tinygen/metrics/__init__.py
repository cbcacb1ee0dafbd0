"""How good are samples? Distances between a set of samples and a set of data, rows of numbers."""

from tinygen.metrics.distances import nearest_distance, sliced_wasserstein

__all__ = ["nearest_distance", "sliced_wasserstein"]
