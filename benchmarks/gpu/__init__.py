"""The fused CUDA kernels on a GPU: right, fast, and beside CuPy and PyTorch. See `__main__.py`."""
