"""The pool of threads: exact products whoever computes them, and nothing of NumPy's is changed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from math import inf
from pathlib import Path

import numpy as np
import pytest

import tinygen as tg
from tinygen.kernels import cores, native, pool
from tinygen.kernels.signatures import FOLDER

pytestmark = pytest.mark.cpu_only("threads of the CPU")
needs_pool = pytest.mark.skipif(
    pool.table() is None, reason="no compiler, or NumPy computes with another BLAS than OpenBLAS"
)
ROOT = Path(tg.__file__).parents[1]
SUFFIX = {np.float32: "f32", np.float64: "f64"}
NUMBERS = (1, 2, 3, 5)  # of threads
TASK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = tg.get_threads()
    yield
    tg.set_threads(before)


def whole_numbers(shape, dtype):
    """A matrix whose products are exact in any order."""
    return rng.integers(-3, 4, shape).astype(dtype)


def run(text, **variables):
    """What a program prints; it must end well and say nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ, **variables}, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def parallel(tasks, work):
    pool._library().tg_parallel(ctypes.c_int64(tasks), TASK(lambda i, _: work(i)), None)


# -- products ------------------------------------------------------------------------------------
class Threads(ctypes.Structure):
    """TgThreads of threads.h."""

    _fields_ = (("parallel", ctypes.c_void_p), ("f32", ctypes.c_void_p), ("f64", ctypes.c_void_p))


def product(m, n, k, dtype, trans_a, trans_b, beta, gap=0):
    """C, and what it should be; the rows of all matrices lie `gap` further apart than they are long."""
    number = {"f32": ctypes.c_float, "f64": ctypes.c_double}[SUFFIX[dtype]]
    size, flag, memory = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p
    of_matrix = [flag, memory, size]
    kind = ctypes.CFUNCTYPE(None, *[size] * 3, *of_matrix, *of_matrix, number, memory, size)
    call = kind(getattr(Threads.from_address(pool.table()), SUFFIX[dtype]))

    a, b, c = (
        whole_numbers((rows, columns + gap), dtype)
        for rows, columns in ((k, m) if trans_a else (m, k), (n, k) if trans_b else (k, n), (m, n))
    )
    before = c[:, :n].copy()
    beside = c[:, n:].copy()
    if beta == 0:
        c[:, :n] = np.nan
    left = a[:, : a.shape[1] - gap].T if trans_a else a[:, : a.shape[1] - gap]
    right = b[:, : b.shape[1] - gap].T if trans_b else b[:, : b.shape[1] - gap]
    right_answer = left.astype(np.int64) @ right.astype(np.int64) + int(beta) * before.astype(int)
    address = [x.ctypes.data for x in (a, b, c)]
    strides = [max(x.shape[1], 1) for x in (a, b, c)]
    call(m, n, k, trans_a, address[0], strides[0], trans_b, address[1], strides[1], beta,
         address[2], strides[2])  # fmt: skip
    assert (c[:, n:] == beside).all()
    return c[:, :n], right_answer


SHAPES = [
    (0, 5, 3), (5, 0, 3), (5, 3, 0), (1, 1, 1), (1, 700, 900), (700, 1, 900), (2, 3, 5), (33, 17, 9),
    (128, 128, 64), (20, 200, 784), (200, 20, 784), (129, 517, 130), (784, 130, 64), (1030, 7, 300),
]  # fmt: skip


@needs_pool
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(shape, trans_a, trans_b, dtype):
    for threads, beta, gap in ((1, 0.0, 0), (2, 0.0, 3), (3, 1.0, 0), (2, -2.0, 1)):
        tg.set_threads(threads)
        c, right = product(*shape, dtype, trans_a, trans_b, beta, gap)
        assert (c == right).all()


@needs_pool
@pytest.mark.parametrize("dtype", SUFFIX)
def test_large_products_of_the_engine_are_the_pools(dtype, monkeypatch):
    a, b = whole_numbers((130, 200), dtype), whole_numbers((200, 90), dtype)
    right = a.astype(int) @ b.astype(int)
    ga, gb = 2 * right @ b.T, a.T @ (2 * right)
    monkeypatch.setattr(np, "matmul", None)
    ta, tb = tg.tensor(a, requires_grad=True), tg.tensor(b, requires_grad=True)
    y = ta @ tb
    (y * y).sum().backward()
    assert (y.data == right).all() and y.data.dtype == dtype
    assert (ta.grad.data == ga).all() and (tb.grad.data == gb).all()
    a.flags.writeable = False
    assert (pool.matmul(a, b) == right).all()


def test_a_matrix_that_blas_cannot_read_is_copied_before_the_product(monkeypatch):
    a = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    row, column = np.float32([[1.5]]), np.float32([[0.1]])
    across = [
        np.broadcast_to(row, (1, 40)),
        np.broadcast_to(column, (7, 40)),
        a[:, ::3].T,
        a[::-1].T,
    ]
    multiplied, matmul = [], np.matmul
    monkeypatch.setattr(np, "matmul", lambda *pair: multiplied.append(pair) or matmul(*pair))
    for x in across:
        np.testing.assert_array_equal(pool.matmul(x, a), matmul(x.copy(), a))
        np.testing.assert_array_equal(pool.matmul(a.T, x.T), matmul(a.T, x.T.copy()))
    for pair in multiplied:
        assert all(pool.as_matrix(x.shape, x.strides, x.itemsize) for x in pair)


@needs_pool
def test_other_matrices_go_to_numpy(monkeypatch):
    a, b = whole_numbers((200, 300), np.float32), whole_numbers((300, 200), np.float32)
    unaligned = np.frombuffer(b"." + a.tobytes(), np.float32, offset=1).reshape(a.shape)
    pairs = [
        (a[:, ::2], b[::2]), (a[:, :150], b[:150]),  # gaps
        (a.astype(np.float64), b), (a.astype(int), b.astype(int)), (a[:1], b), (a, b[:, :1]),
        (np.stack([a, a]), b), (a.astype(complex), b.astype(complex)), (unaligned, b),
        (a.astype(">f4"), b),
    ]  # fmt: skip
    calls = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *pair: calls.append(pair) or matmul(*pair))
    for x, y in pairs:
        z = pool.matmul(x, y)
        assert (z == matmul(x, y)).all() and z.dtype == matmul(x, y).dtype
    assert len(calls) == len(pairs)
    with pytest.raises(ValueError, match="mismatch"):
        pool.matmul(a, a)


@needs_pool
@pytest.mark.parametrize("dtype", SUFFIX)
@pytest.mark.parametrize(
    "shape", [(128, 512, 300), (20, 784, 200), (784, 128, 100), (131, 67, 259)]
)
def test_bits_do_not_depend_on_the_number_of_threads(shape, dtype):
    m, k, n = shape
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    found = set()
    for threads in NUMBERS:
        tg.set_threads(threads)
        found |= {pool.matmul(a, b).tobytes() for _ in range(10)}
    assert len(found) == 1


# -- the pool ------------------------------------------------------------------------------------
@needs_pool
@pytest.mark.parametrize("threads", NUMBERS)
def test_every_task_is_done_once(threads):
    tg.set_threads(threads)
    for tasks in (0, 1, 2, 3, 7, 100):
        done = []
        parallel(tasks, done.append)
        assert sorted(done) == list(range(tasks))


@needs_pool
@pytest.mark.parametrize("threads", [2, 4])
def test_as_many_threads_work_as_were_asked_for(threads):
    tg.set_threads(threads)
    together = threading.Barrier(threads, timeout=60)
    who = []

    def task(_):
        together.wait()  # nobody passes before all are here
        who.append(threading.get_native_id())

    parallel(threads, task)
    assert len(set(who)) == threads and threading.get_native_id() in who
    tg.set_threads(1)
    who.clear()
    parallel(9, lambda _: who.append(threading.get_native_id()))
    assert set(who) == {threading.get_native_id()}


@needs_pool
def test_a_task_may_begin_a_job():
    tg.set_threads(2)
    done = []
    parallel(3, lambda i: parallel(4, lambda j: done.append((i, j))))
    assert sorted(done) == [(i, j) for i in range(3) for j in range(4)]


@needs_pool
def test_a_job_beside_another_waits_for_nobody():
    tg.set_threads(2)
    begun, enough = threading.Event(), threading.Event()

    def long(_):
        begun.set()
        assert enough.wait(60)

    other = threading.Thread(target=parallel, args=(2, long), daemon=True)
    other.start()
    assert begun.wait(60)
    done = []
    parallel(5, lambda i: done.append((i, threading.get_native_id())))
    assert not enough.is_set()
    assert sorted(done) == [(i, threading.get_native_id()) for i in range(5)]
    enough.set()
    other.join(60)
    assert not other.is_alive()


@needs_pool
def test_several_python_threads_at_once():
    tg.set_threads(3)
    pairs = [
        (whole_numbers((m, 128), np.float32), whole_numbers((128, 256), np.float32))
        for m in (64, 100, 128, 300)
    ]
    wrong = []

    def work(a, b):
        right = a.astype(int) @ b.astype(int)
        for _ in range(50):
            if not (pool.matmul(a, b) == right).all():
                wrong.append(a.shape)

    workers = [threading.Thread(target=work, args=pair) for pair in pairs]
    for worker in workers:
        worker.start()
    for threads in (1, 4, 2):  # and the number changes meanwhile
        tg.set_threads(threads)
    for worker in workers:
        worker.join()
    assert wrong == []


COMMON = """
import os, threading
import numpy as np, tinygen as tg
from tinygen.kernels import pool
a, b = np.ones((128, 256), np.float32), np.ones((256, 256), np.float32)
def right():
    return bool((pool.matmul(a, b) == 256).all())
tg.set_threads(3)
assert right()
"""


@needs_pool
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork_the_child_has_a_pool_of_its_own():
    """Also while another thread computes, whose locks the child inherits."""
    program = """
def always():
    while not enough:
        assert right()
enough = []
other = threading.Thread(target=always)
other.start()
ends = []
for _ in range(10):
    child = os.fork()
    if not child:
        os._exit(0 if right() and len(os.listdir("/proc/self/task")) == 3 else 1)
    ends.append(os.waitpid(child, 0)[1])
enough.append(True)
other.join()
print(ends, right())
"""
    assert run(COMMON + program) == f"{[0] * 10} True"


@needs_pool
def test_the_interpreter_ends_with_products_under_way():
    """Its last act sees the threads of Python alone: the pool's have ended."""
    first = """
import atexit, os
atexit.register(lambda: print("end", len(os.listdir("/proc/self/task"))))
"""
    program = """
def always():
    while True:
        right()
threading.Thread(target=always, daemon=True).start()
"""
    assert run(first + COMMON + program, OPENBLAS_NUM_THREADS="1") == "end 2"


@needs_pool
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_signals_are_not_for_the_workers():
    program = """
main = threading.get_native_id()
for thread in map(int, os.listdir("/proc/self/task")):
    if thread != main:
        status = dict(l.split(":\\t", 1) for l in open(f"/proc/self/task/{thread}/status") if ":\\t" in l)
        blocked = int(status["SigBlk"], 16)
        print(all(blocked >> number - 1 & 1 for number in (2, 10, 14, 15)))
"""
    assert run(COMMON + program, OPENBLAS_NUM_THREADS="1") == "True\nTrue"


@needs_pool
def test_a_library_compiled_apart_uses_the_pool_of_the_process(tmp_path):
    (tmp_path / "apart.cpp").write_text("""
        #include "threads.h"
        static const TgThreads* threads;
        extern "C" void use(const TgThreads* given) { threads = given; }
        extern "C" void squares(int64_t n, double* out) {
            threads->parallel(n, [](int64_t i, void* to) { ((double*)to)[i] = (double)(i * i); }, out);
        }
        extern "C" void product(const float* a, const float* b, float* c) {
            threads->product_f32(2, 2, 3, 0, a, 3, 1, b, 3, 0.0f, c, 2);
        }
    """)
    library = tmp_path / "apart.so"
    command = [*native._compiler(), "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}"]
    subprocess.run([*command, str(tmp_path / "apart.cpp"), "-o", str(library)], check=True)
    apart = ctypes.CDLL(str(library))
    apart.use(ctypes.c_void_p(pool.table()))
    tg.set_threads(2)
    squares = np.zeros(50)
    apart.squares(ctypes.c_int64(50), squares.ctypes)
    assert (squares == np.arange(50) ** 2).all()
    a, b = whole_numbers((2, 3), np.float32), whole_numbers((2, 3), np.float32)
    c = np.empty((2, 2), np.float32)
    apart.product(a.ctypes, b.ctypes, c.ctypes)
    assert (c == a @ b.T).all()


# -- what is NumPy's stays NumPy's ---------------------------------------------------------------
@needs_pool
def test_numpys_number_of_threads_is_not_touched():
    program = """
import os
import numpy as np, tinygen as tg
from tinygen.kernels import pool
blas = pool.OpenBLAS.of_numpy()
get, set_ = blas.openblas_get_num_threads, blas.openblas_set_num_threads
set_(3)
seen = [get()]
a = np.ones((300, 300), np.float32)
for threads in (2, 1, 4):
    tg.set_threads(threads)
    pool.matmul(a, a)
    seen.append(get())
set_(2)
pool.matmul(a, a)
print(*seen, get(), os.environ.get("OPENBLAS_NUM_THREADS"), pool.table() is None)
"""
    assert run(program, OPENBLAS_NUM_THREADS="5") == "3 3 3 3 2 5 False"


def test_with_another_blas_numpy_multiplies(monkeypatch):
    monkeypatch.setattr(pool, "_blas_on_one_thread", lambda: None)
    pool._library.cache_clear()
    try:
        assert pool.table() is None
        tg.set_threads(2)
        a, b = whole_numbers((128, 128), np.float32), whole_numbers((128, 128), np.float32)
        assert (pool.matmul(a, b) == a.astype(int) @ b.astype(int)).all()
    finally:
        pool._library.cache_clear()


def test_a_blas_that_is_not_openblas_is_left_alone(monkeypatch):
    with pytest.raises(AttributeError, match="no OpenBLAS"):
        pool.OpenBLAS(ctypes.CDLL(None))
    monkeypatch.setattr(pool.OpenBLAS, "of_numpy", lambda: pool.OpenBLAS(ctypes.CDLL(None)))
    assert pool._blas_on_one_thread() is None


@needs_pool
@pytest.mark.parametrize("what", ["openblas_get_parallel", "openblas_get_num_threads"])
def test_an_openblas_that_counts_its_threads_otherwise_is_left_alone(what, monkeypatch):
    assert pool._blas_on_one_thread()
    monkeypatch.setattr(pool.OpenBLAS, what, lambda self: 2, raising=False)
    assert pool._blas_on_one_thread() is None


# -- how many threads ----------------------------------------------------------------------------
@pytest.mark.parametrize("n", [0, -1, 2.0, "2", True, None, 10**6])
def test_set_threads_says_what_it_wants(n):
    with pytest.raises(ValueError, match="the number of threads is"):
        tg.set_threads(n)


def test_get_threads_gives_what_was_set():
    for n in (3, 1, np.int64(2)):
        tg.set_threads(n)
        assert tg.get_threads() == n


@pytest.fixture
def eight_cores(monkeypatch):
    for name in ("TINYGEN_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "_affinity", lambda: 8)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 8),
        ({"TINYGEN_THREADS": ""}, 8),
        ({"TINYGEN_THREADS": "3"}, 3),
        ({"TINYGEN_THREADS": "12", "OPENBLAS_NUM_THREADS": "2"}, 12),
        ({"OPENBLAS_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OPENBLAS_NUM_THREADS": "5", "OMP_NUM_THREADS": "1"}, 5),
        ({"OPENBLAS_NUM_THREADS": "0", "OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "16"}, 8),
    ],
)
def test_environment_variables(variables, threads, eight_cores, tmp_path):
    for name, value in variables.items():
        eight_cores.setenv(name, value)
    assert cores.default_threads(tmp_path) == threads


@pytest.mark.parametrize("name", ["MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"])
@pytest.mark.parametrize(
    ("bound_to", "processes", "threads"),
    [(8, "1", 8), (8, "2", 4), (8, "3", 2), (8, "20", 1), (4, "2", 4), (8, "", 8)],
)
def test_processes_that_mpiexec_started_share_the_cores(
    name, bound_to, processes, threads, monkeypatch
):
    """But those that it bound to cores have these for themselves."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(bound_to)), raising=False)
    monkeypatch.setenv(name, processes)
    assert cores._affinity() == threads


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", "²", "99999"])
def test_a_number_of_threads_that_is_none(value, eight_cores):
    eight_cores.setenv("TINYGEN_THREADS", value)
    with pytest.raises(ValueError, match=f"TINYGEN_THREADS is a whole number from 1 to .*{value}"):
        cores.default_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_affinity():
    program = "import tinygen as tg; print(tg.get_threads())"
    one = f"import os; os.sched_setaffinity(0, {set(list(os.sched_getaffinity(0))[:1])}); "
    free = {"OPENBLAS_NUM_THREADS": "", "OMP_NUM_THREADS": "", "TINYGEN_THREADS": ""}
    assert run(one + program, **free) == "1"


V2 = "0::/job/step\n"
V1 = "7:memory:/job\n4:cpu,cpuacct:/job\n1:cpuset:/\n"
GROUPS = "sys/fs/cgroup"


def v1(group, most):
    return {f"{group}/cpu.cfs_quota_us": f"{most}\n", f"{group}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("of_process", "files", "quota"),
    [
        ("", {}, inf),
        (V2, {}, inf),
        (V2, {"job/step/cpu.max": "max 100000\n"}, inf),
        (V2, {"job/step/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"job/step/cpu.max": "max 100000", "job/cpu.max": "200000 100000"}, 2),
        (V2, {"job/step/cpu.max": "300000 100000", "cpu.max": "50000 100000"}, 0.5),
        (V2, {"cpu.max": "400000 100000\n"}, 4),  # a container that sees its own group as the root
        (V2, {"elsewhere/cpu.max": "100000 100000"}, inf),
        (V2, {"job/step/cpu.max": "nonsense"}, inf),
        (V1, v1("cpu,cpuacct/job", "250000"), 2.5),
        (V1, v1("cpu,cpuacct/job", "-1"), inf),
        (V1, v1("cpu", "200000"), 2),
        (V1, v1("memory/job", "100000"), inf),
        (V1, {"cpu/job/cpu.cfs_quota_us": "100000"}, inf),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(of_process, files, quota, tmp_path):
    for name, text in {f"{GROUPS}/{n}": t for n, t in files.items()}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(of_process)
    assert cores.quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("most", "threads"), [("20000", 1), ("100000", 1), ("150000", 2), ("max", 8)]
)
def test_a_quota_limits_the_threads(most, threads, eight_cores, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / GROUPS).mkdir(parents=True)
    (tmp_path / GROUPS / "cpu.max").write_text(f"{most} 100000\n")
    assert cores.default_threads(tmp_path) == threads
