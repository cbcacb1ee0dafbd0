"""Every kernel launched once in each way, for a checker to watch: `python -m benchmarks.gpu.launches`.

CuPy's memory pool is off: it would hide accesses out of bounds. With `--plant` there is one, and
nothing else, which a checker that works must find.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.gpu.check import Fresh, geometry
from benchmarks.gpu.table import KERNELS
from tinygen.backend import namespace_for
from tinygen.kernels import cuda

SMALL = [(1, 3), (7, 143)]
LARGE = (101, 9901)  # so that few blocks go through several chunks
PLANT = """
typedef long long i64;
extern "C" __global__ void plant(float* y, i64 n) { y[n + threadIdx.x] = 1.0f; }
"""


def main(arguments: Sequence[str]) -> None:
    """Launch and wait; errors raise."""
    m = namespace_for("gpu")
    m.cuda.set_allocator(None)
    if "--plant" in arguments:
        y = m.zeros(4, np.float32)
        plant = m.RawModule(code=PLANT, options=cuda.OPTIONS).get_function("plant")
        plant((1,), (32,), (y, np.int64(y.size)))
    else:
        for kernel in KERNELS:
            for shape, offset in [(shape, offset) for shape in SMALL for offset in (0, 1)]:
                fresh = Fresh.of(kernel, shape, 0)
                kernel.call(m, fresh.placed(m, offset), fresh.draw)
            fresh = Fresh.of(kernel, LARGE, 0)
            with geometry(256, 1):
                kernel.call(m, fresh.placed(m), fresh.draw)
    m.cuda.Device().synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
