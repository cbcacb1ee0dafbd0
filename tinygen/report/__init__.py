"""Pages that open without a server or a network: the graph of a computation."""

from tinygen.report.graph import graph_html
from tinygen.report.recording import recording

__all__ = ["graph_html", "recording"]
