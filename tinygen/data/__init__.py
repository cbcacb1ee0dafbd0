"""Data sets: images (one set is bundled), synthetic sets in the plane, and the user's own files."""

from tinygen.data._dataset import Dataset
from tinygen.data._load import load, names

__all__ = ["Dataset", "load", "names"]
