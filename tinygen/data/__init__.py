"""Data sets: images (one set is bundled), synthetic sets in the plane, and your own files."""

from tinygen.data._dataset import Dataset
from tinygen.data._load import load, names

__all__ = ["Dataset", "load", "names"]
