"""The checks of the CUDA kernels see what they are there for: each finds its broken kernels.

A mutant is the real source with one mistake in it. If the text that it replaces is gone from the
source, its test fails: then the mistake has to be written anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

from tests.kernels.test_cuda_compile import Nvcc, Nvrtc, declared_entry_points, entry_points
from tests.kernels.test_cuda_kernels import (
    OPTIONS,
    SHAPES,
    check_bits,
    check_sameness,
    check_values,
    run_sanitized,
)
from tests.support import cuda_on_cpu
from tinygen.kernels import cuda

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cpu_only("what runs is the CUDA source on the CPU"),
    pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="needs g++"),
]


class Mutant(NamedTuple):
    """``right`` becomes ``wrong``; a run of ``kernel`` then fails with the message."""

    right: str
    wrong: str
    kernel: str
    message: str

    def source(self) -> str:
        """The source with the mistake, and with no other change."""
        if self.right not in cuda.source():
            pytest.fail(f"to be written anew: there is no {self.right!r}")
        return cuda.source().replace(self.right, self.wrong)

    def build(self) -> cuda_on_cpu.Kernels:
        """The kernel with the mistake."""
        return cuda_on_cpu.build(self.source(), OPTIONS, only=[self.kernel])


# What the order of the threads, their number, or the place of the arrays brings to light.
PLACEMENT = {
    "no barrier before lanes are read": Mutant(
        "    __syncthreads();\n    for (int width", "    for (int width", "sum_squares", "differs"
    ),
    "no barrier between two halvings": Mutant(
        "lanes[i + width];\n        __syncthreads();", "lanes[i + width];", "sum_squares", "differs"
    ),
    "a barrier that part of the threads reach": Mutant(
        "for (i64 chunk = blockIdx.x; chunk == 0",
        "if (threadIdx.x > 40) return;\n    for (i64 chunk = blockIdx.x; chunk == 0",
        "sum_chunks",
        "not every thread",
    ),
    "blocks that overlap": Mutant(
        "group += gridDim.x * blockDim.x)", "group += blockDim.x)", "adam", "differs"
    ),
    "a stride for two blocks": Mutant(
        "chunk += gridDim.x)", "chunk += 2)", "sum_squares", "differs"
    ),
    "pieces that overlap": Mutant(
        "place += gridDim.x)", "place += 1)", "adam_of_all", "differs"
    ),
    "a wide access one element too far": Mutant(
        "(u32)(n / Group<T>::size) : 0", "groups : 0", "bias_relu", "out of bounds"
    ),
    "a tail that is written in full": Mutant(
        "if (i + j < n) p[i + j] = x.v[j];", "p[i + j] = x.v[j];", "bias_relu", "out of bounds"
    ),
}  # fmt: skip

# What the oracles bring to light.
VALUES = {
    "a tail that is left out": Mutant(
        "group < groups;", "group < n / Group<T>::size;", "fill_bits", "out"
    ),
    "a word of Philox from the wrong product": Mutant(
        "c1 = (u32)p2;", "c1 = (u32)p0;", "fill_bits", "out"
    ),
    "nine rounds of Philox": Mutant("round < 10", "round < 9", "fill_bits", "out"),
    "lanes of Philox exchanged": Mutant(
        "{{w.w0, w.w1, w.w2, w.w3}}", "{{w.w0, w.w2, w.w1, w.w3}}", "fill_bits", "out"
    ),
    "words taken twice": Mutant(
        "philox(stream, group);\n    const Pair",
        "philox(stream, group / 2);\n    const Pair", "noise_step", "xt",
    ),
    "a counter that is forgotten": Mutant(
        "counter ? draw + counter[0] : draw", "draw", "noise_step", "xt"
    ),
    "a coefficient of the logarithm": Mutant(
        "0.333333313f", "0.333353313f", "fill_normal_f32", "out"
    ),
    "a quadrant of the cosine": Mutant(
        "quarter + (1u << 30)", "quarter", "fill_normal_f64", "out"
    ),
    "a row that begins too late": Mutant(
        "if (at.column >= columns)", "if (at.column > columns)", "noise_step", "xt"
    ),
    "half of a warp left out of a row's sum": Mutant(
        "int width = 16; width; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);\n    return sum;",
        "int width = 8; width; width /= 2) sum += __shfl_xor_sync(~0u, sum, width);\n    return sum;",
        "standardise", "y",
    ),
    "a scale without its 1": Mutant(
        "multiply_add(z, 1.0f + scale, shift)", "multiply_add(z, scale, shift)", "standardise", "y"
    ),
    "a slope along the ones": Mutant(
        "multiply_add(z, along_z, along_1)", "z * along_z", "standardise_backward", "d"
    ),
    "an array of a table at the place of another": Mutant(
        "before += pieces;", "", "sum_squares_of_all", "sums"
    ),
    "clipping from one side": Mutant(
        "x0 = bounded(x0, c.low, c.high);", "x0 = bounded(x0, c.low, x0);", "denoise_step", "y"
    ),
}  # fmt: skip

# What the C++ build brings to light, though it is small.
BITS = {
    "a last digit of a coefficient": Mutant(
        "0.333333313f", "0.333333343f", "fill_normal_f32", "out"
    ),
    "a product that is rounded": Mutant(
        "multiply_add(e.v[j], e.v[j], part.v[j])", "e.v[j] * e.v[j] + part.v[j]", "sum_squares", "sums"
    ),
    "a zero of the other sign": Mutant(
        "return u <= 0.0f ? 0.0f : u;", "return u <= 0.0f ? -0.0f : u;", "bias_relu", "signs of zeros"
    ),
}  # fmt: skip

# What the sanitizers bring to light.
SANITIZED = {
    "a tail that is read in full": Mutant(
        "if (i + j < n) x.v[j] = p[i + j];", "x.v[j] = p[i + j];",
        "bias_relu", "heap-buffer-overflow",
    ),
    "wide accesses that are not aligned": Mutant(
        "is_aligned ? (u32)(n / Group<T>::size) : 0", "(u32)(n / Group<T>::size)",
        "bias_relu", "misaligned address",
    ),
}  # fmt: skip

WRONG_ARGUMENTS = Mutant("i64 n, double scale", "i64 n, float scale", "sum_chunks", "")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Mutants are compiled two at a time: each test then finds its own in the cache."""
    mutants = [*PLACEMENT.values(), *VALUES.values(), *BITS.values()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Mutant.build, (m for m in mutants if m.right in cuda.source())))


def check_is_failed(mutant: Mutant, check) -> None:
    kernels = mutant.build()
    with pytest.raises((AssertionError, cuda_on_cpu.LaunchError), match=mutant.message):
        for shape in SHAPES:
            check(kernels, mutant.kernel, shape)


@pytest.mark.parametrize("name", PLACEMENT)
def test_wrong_placement_is_seen(name):
    check_is_failed(PLACEMENT[name], check_sameness)


@pytest.mark.parametrize("name", VALUES)
def test_wrong_values_are_seen(name):
    check_is_failed(VALUES[name], check_values)


@pytest.mark.parametrize("name", BITS)
def test_other_bits_are_seen(name):
    check_is_failed(BITS[name], check_bits)


@pytest.mark.parametrize("name", SANITIZED)
def test_wrong_accesses_are_seen(name):
    mutant = SANITIZED[name]
    done = run_sanitized(mutant.source(), [mutant.kernel])
    assert done.returncode != 0
    assert mutant.message in done.stderr


@pytest.mark.parametrize("find_compiler", [Nvcc, Nvrtc])
def test_arguments_that_python_does_not_know_of_are_seen(find_compiler):
    try:
        compiler = find_compiler()
    except OSError as reason:
        pytest.skip(str(reason))
    compiled = entry_points(compiler.assembly(WRONG_ARGUMENTS.source(), cuda.OPTIONS))
    declared = declared_entry_points()
    assert [name for name in declared if compiled[name] != declared[name]] == [
        WRONG_ARGUMENTS.kernel
    ]


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("float", float, "from_xt is a float, got .* of type float"),
        ("float", np.float64, "from_xt is a float, got .* of type float64"),
        ("i64", int, "n is a i64, got .* of type int"),
        ("i64", np.int32, "n is a i64, got .* of type int32"),
        ("u64", int, "seed is a u64, got .* of type int"),
    ],
)
def test_arguments_of_a_wrong_type_are_seen(monkeypatch, kind, wrong, message):
    monkeypatch.setitem(cuda._NUMBERS, kind, wrong)
    kernels = cuda_on_cpu.build(cuda.source(), OPTIONS)
    with pytest.raises(TypeError, match=message):
        check_values(kernels, "denoise_step" if kind == "float" else "fill_bits", SHAPES[-1])
