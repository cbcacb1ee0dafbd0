"""The executor of CUDA sources on the CPU sees what a GPU would pass over in silence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.support import cuda_on_cpu

pytestmark = [
    pytest.mark.cpu_only("what runs is the CUDA source on the CPU"),
    pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="needs g++"),
]

SOURCE = r"""
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name

KERNEL(scale)(const float* x, float* y, i64 n, float a);

KERNEL(scale)(const float* __restrict__ x, float* y, i64 n, float a) {
    const i64 step = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) y[i] = a * x[i];
}

template <int N>
__device__ __forceinline__ float mirrored(float x) {
    __shared__ float all[N];
    all[threadIdx.x] = x;
    BARRIER;
    return all[blockDim.x - 1 - threadIdx.x];
}

KERNEL(mirror)(float* x) { x[threadIdx.x] = mirrored<256>(x[threadIdx.x]); }

KERNEL(leave_early)(float* x) {
    if (threadIdx.x == 3) return;
    __syncthreads();
}

KERNEL(part_ways)(float* x) {
    if (threadIdx.x == 3)
        __syncthreads();
    else
        __syncthreads();
}

KERNEL(uninitialised)(float* x) {
    __shared__ float last;
    x[blockIdx.x] = last;
    last = 1.0f;
}

KERNEL(pairs)(float* x) { *reinterpret_cast<float4*>(x) = make_float4(1, 2, 3, 4); }

KERNEL(last_thread)(i32* x) { *x = (i32)(1000 * blockIdx.x + threadIdx.x); }

KERNEL(assembly)(const u32* x, u64* y) {
    u64 p;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(x[0]), "r"(x[1]));
    y[0] = p;
}

KERNEL(high_word)(u32* x) { x[0] = __umulhi(x[0], x[1]); }
"""

ORDERS = ["forward", "backward"]


@pytest.fixture(scope="module")
def kernels():
    return cuda_on_cpu.build(SOURCE, ["-DBARRIER=__syncthreads()", "--fmad=false"])


def scale_args(n=5):
    return [np.arange(n, dtype=np.float32), np.zeros(n, np.float32), np.int64(n), np.float32(2)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("grid", "block"), [(1, 1), (1, 256), (3, 7)])
def test_every_thread_of_every_block_runs(kernels, grid, block, order):
    args = scale_args(1001)
    kernels.launch("scale", grid, block, args, order)
    np.testing.assert_array_equal(args[1], 2 * args[0])


@pytest.mark.parametrize("order", ORDERS)
def test_threads_meet_at_a_barrier(kernels, order):
    x = np.arange(100, dtype=np.float32)
    kernels.launch("mirror", 1, 100, [x], order)
    np.testing.assert_array_equal(x, np.arange(100)[::-1])


@pytest.mark.parametrize("order", ORDERS)
def test_without_the_barrier_half_the_threads_read_too_early(order):
    x = np.arange(100, dtype=np.float32)
    cuda_on_cpu.build(SOURCE, ["-DBARRIER="]).launch("mirror", 1, 100, [x], order)
    assert np.isnan(x).sum() == 50
    assert np.isnan(x[0] if order == "forward" else x[-1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["leave_early", "part_ways"])
@pytest.mark.parametrize("block", [4, 32])
def test_a_barrier_that_not_all_threads_reach_is_an_error(kernels, name, block, order):
    with pytest.raises(cuda_on_cpu.LaunchError, match=f"{name}: .* barrier in line"):
        kernels.launch(name, 2, block, [np.zeros(32, np.float32)], order)
    test_threads_meet_at_a_barrier(kernels, order)  # and the next launch is as good as new


def test_shared_memory_starts_every_block_without_a_value(kernels):
    x = np.zeros(3, np.float32)
    kernels.launch("uninitialised", 3, 1, [x])
    assert np.isnan(x).all()


def test_subnormal_numbers_are_flushed_if_asked():
    args = scale_args()
    args[0][:] = 1e-39
    for options, zero in ([], False), (["-ftz=true"], True):
        kernels = cuda_on_cpu.build(SOURCE, ["-DBARRIER=", *options])
        kernels.launch("scale", 1, 8, args)
        assert (args[1] == 0).all() == zero
    assert np.float32(1e-39) * np.float32(1) != 0  # and only there


@pytest.mark.parametrize(("order", "last"), [("forward", 2009), ("backward", 0)])
def test_blocks_and_threads_run_in_the_order_asked_for(kernels, order, last):
    x = np.zeros(1, np.int32)
    kernels.launch("last_thread", 3, 10, [x], order)
    assert x[0] == last


def test_high_word_of_a_product(kernels):
    x = np.array([0xFFFFFFFF, 0xFFFFFFFE], np.uint32)
    kernels.launch("high_word", 1, 1, [x])
    assert x[0] == 0xFFFFFFFF * 0xFFFFFFFE >> 32


def test_an_instruction_of_inline_assembly(kernels):
    x, y = np.array([0xFFFFFFFF, 0xFFFFFFFE], np.uint32), np.zeros(1, np.uint64)
    kernels.launch("assembly", 1, 1, [x, y])
    assert y[0] == 0xFFFFFFFF * 0xFFFFFFFE


def test_prototypes_are_read_from_the_source(kernels):
    prototype = kernels.prototypes["scale"]
    assert prototype.max_threads == 256
    assert prototype.arguments == [
        ["const float*", "x"],
        ["float*", "y"],
        ["i64", "n"],
        ["float", "a"],
    ]


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, np.zeros(5), r"x is a const float\*, got an array of float64"),
        (0, np.zeros((5, 2), np.float32)[:, 0], r"x is .* strides \(8,\)"),
        (0, np.float32(1), "x is .* float32"),
        (0, 1.0, "x is .* float"),
        (0, True, "x is .* bool"),
        (0, np.uint64(64), "x is .* uint64"),
        (0, 6, "x is .* 0x6, which is not aligned"),
        (1, np.broadcast_to(np.float32(1), 1), "y is .* read-only"),
        (2, 5, "n is a i64, got 5 of type int"),
        (2, np.uint64(5), "n is a i64, .* uint64"),
        (2, np.int32(5), "n is a i64, .* int32"),
        (3, 2.0, "a is a float, got 2.0 of type float"),
        (3, np.float64(2), "a is a float, .* float64"),
    ],
)
def test_a_wrong_argument_is_named(kernels, position, wrong, message):
    args = scale_args()
    args[position] = wrong
    with pytest.raises(TypeError, match=f"scale: argument {message}"):
        kernels.launch("scale", 1, 1, args)


def test_a_wrong_number_of_arguments(kernels):
    with pytest.raises(TypeError, match="scale takes 4 arguments, got 3"):
        kernels.launch("scale", 1, 1, scale_args()[:3])


@pytest.mark.parametrize(("grid", "block"), [(0, 1), (1, 0), (1, 257)])
def test_an_impossible_geometry_is_an_error(kernels, grid, block):
    with pytest.raises(cuda_on_cpu.LaunchError, match="scale: a grid of"):
        kernels.launch("scale", grid, block, scale_args())


def test_an_unknown_kernel_is_an_error(kernels):
    with pytest.raises(KeyError, match="no kernel 'nope'"):
        kernels.launch("nope", 1, 1, [])
    with pytest.raises(ValueError, match="order must be"):
        kernels.launch("scale", 1, 1, scale_args(), "sideways")


def test_a_source_that_does_not_compile_shows_the_line():
    with pytest.raises(RuntimeError, match=r"kernels.cu:2:.*oops"):
        cuda_on_cpu.build("typedef int i32;\noops;")


def test_an_argument_of_an_unknown_type_is_an_error():
    with pytest.raises(TypeError, match=r"'half\*'"):
        cuda_on_cpu.build('extern "C" __global__ void f(half *x) {}')


def test_it_stands_in_for_a_module_of_cupy():
    module = cuda_on_cpu.run_kernel_source(SOURCE, ("-DBARRIER=__syncthreads()", "--fmad=false"))
    args = scale_args()
    address = args[1].ctypes.data
    module.get_function("scale")((2,), (4,), (args[0], address, *args[2:]))
    np.testing.assert_array_equal(args[1], 2 * args[0])
    with pytest.raises(KeyError, match="no kernel 'nope'"):
        module.get_function("nope")


def test_a_few_kernels_can_be_had_alone():
    kernels = cuda_on_cpu.build(SOURCE, ["-DBARRIER="], only=["scale", "pairs"])
    assert list(kernels.prototypes) == ["scale", "pairs"]
    test_every_thread_of_every_block_runs(kernels, 2, 8, "forward")


def test_a_source_is_compiled_once(monkeypatch):
    cuda_on_cpu.build("typedef int i32;")
    monkeypatch.setattr(cuda_on_cpu, "_compile", None)
    cuda_on_cpu.build("typedef int i32;")


SANITIZED = """
import sys
import numpy as np
from tests.support import cuda_on_cpu
from tests.kernels.test_cuda_on_cpu import SOURCE, scale_args
kernels = cuda_on_cpu.build(SOURCE, ["-DBARRIER=__syncthreads()"], sanitize=True)
kernels.launch("scale", 2, 96, scale_args(1001))
kernels.launch("mirror", 2, 96, [np.zeros(96, np.float32)])
try:
    kernels.launch("leave_early", 2, 96, [np.zeros(96, np.float32)])
except cuda_on_cpu.LaunchError:
    print("all is well", flush=True)
"""


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ("", None),
        ("kernels.launch('scale', 1, 1, scale_args(9)[:2] + [np.int64(10), np.float32(2)])",
         "heap-buffer-overflow"),
        ("kernels.launch('mirror', 1, 4, [np.zeros(3, np.float32)], 'backward')",
         "heap-buffer-overflow"),
        ("kernels.launch('pairs', 1, 1, [np.zeros(8, np.float32)[1:]])", "misaligned address"),
    ],
)  # fmt: skip
def test_sanitizers_see_accesses_out_of_bounds(launch, message):
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED + launch],
        capture_output=True,
        text=True,
        env=cuda_on_cpu.sanitizer_environment(),
    )
    assert done.stdout == "all is well\n", done.stderr
    assert (done.returncode == 0) == (message is None), done.stderr
    assert message is None or message in done.stderr
