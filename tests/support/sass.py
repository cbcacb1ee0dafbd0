"""How many instructions a kernel of the GPU takes for an element, from its compiled code.

A kernel that is limited by memory has a budget: on an H200 at 90 % of a copy's rate about 7.8
instructions for each byte that an element moves. What is counted is the way through the kernel's
loop that aligned groups of four elements take, far from the ends of rows: the cheapest cycle through a
block of instructions that has their wide access (128 bits) and, where noise is drawn, through one that
makes normals. Rare ways (calls of a slow division, ends of rows) are not on it. To sums, what a chunk
costs once is added.

nvdisasm reads the code: from the CUDA toolkit, or from its wheel (``pip install nvidia-cuda-nvdisasm``).
"""

from __future__ import annotations

import heapq
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

WIDE = {
    "fill_bits": ("STG", 1), "fill_uniform_f32": ("STG", 1), "fill_normal_f32": ("STG", 1),
    "noise_step": ("STG", 1), "denoise_step": ("STG", 1), "squared_error": ("STG", 1),
    "sum_squares": ("LDG", 1), "scale_all": ("STG", 1),
    "bias_tanh": ("STG", 1), "bias_silu": ("STG", 1), "bias_gelu": ("STG", 1),
    "bias_silu_backward": ("STG", 1), "bce_with_logits": ("STG", 1),
    "bce_with_logits_backward_by_row": ("STG", 1), "adam": ("STG", 3), "adam_of_all": ("STG", 3),
}  # fmt: skip
"""Kernels whose instructions are counted, and how many wide accesses tell of a group of four."""

JUMP = (
    r"\b(?:BRA|CALL)\b.*?`\((\.L_x_\d+)\)"  # some compilers leave a loop by a call of what follows
)
DRAWING = ("fill_normal_f32", "noise_step", "denoise_step", "squared_error")
SUMMING = ("squared_error", "sum_squares")
ELEMENTS_OF_A_SUM = {"squared_error": 65536}  # in large arrays; else 4096


def disassembler() -> str:
    """The path of nvdisasm. OSError: there is none."""
    found = shutil.which("nvdisasm")
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    wheels = [str(path) for folder in folders for path in folder.glob("*/bin/nvdisasm")]
    if not (found or wheels):
        raise OSError("there is no nvdisasm")
    return found or wheels[0]


class Code(NamedTuple):
    """The blocks of a kernel, lists of instructions, and those that may follow each."""

    blocks: list[list[str]]
    following: list[list[int]]


def instructions(cubin: bytes) -> dict[str, float]:
    """For each kernel of WIDE: instructions an element."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(cubin)
        text = subprocess.run(
            [disassembler(), "-c", str(path)], capture_output=True, text=True, check=True
        ).stdout
    parts = re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\s*\.section|^\.text\.|\Z)", text, re.S | re.M)
    codes = {name: code(body) for name, body in parts}
    return {name: of_element(name, codes[name]) for name in WIDE}


def code(body: str) -> Code:
    """The blocks of a disassembled kernel."""
    blocks: list[list[str]] = [[]]
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            blocks[-1].append(found[1])
            if re.search(rf"\b(BRA|EXIT|RET)\b|{JUMP}", found[1]):
                blocks.append([])
    following = []
    for i, block in enumerate(blocks):
        last = block[-1] if block else ""
        target = re.search(JUMP, last)
        next_ = [] if re.match(r"(BRA\s+`|EXIT|RET)", last) or i + 1 == len(blocks) else [i + 1]
        following.append(([labels[target[1]]] if target else []) + next_)
    return Code(blocks, following)


def of_element(name: str, code: Code) -> float:
    """Instructions an element of one kernel."""
    kind, each = WIDE[name]
    wide = rf"^{kind}\.E\.128"
    cycle = _cheapest(code, wide, "MUFU.RSQ" if name in DRAWING else wide)
    inside = _length(code, cycle) / (4 * _count(code, cycle, wide) / each)
    if name not in SUMMING:
        return inside
    # Once for a chunk each of a block's 256 threads adds up in double, and waits for the others.
    of_thread = ELEMENTS_OF_A_SUM.get(name, 4096) / 256
    return inside + _length(code, _cheapest(code, r"F2F\.F64\.F32", "^BAR")) / of_thread


def _cheapest(code: Code, pattern: str, other: str) -> list[int]:
    """The cheapest cycle through a block with an instruction like the one, and one like the other."""
    pairs = product(_having(code, pattern), _having(code, other))
    cycles = [cycle for a, b in pairs if (cycle := _cycle(code, a, b)) is not None]
    return min(cycles, key=partial(_length, code))


def _having(code: Code, pattern: str) -> list[int]:
    return [i for i, block in enumerate(code.blocks) if any(re.search(pattern, x) for x in block)]


def _count(code: Code, path: Sequence[int], pattern: str) -> int:
    return sum(bool(re.search(pattern, x)) for i in path for x in code.blocks[i])


def _length(code: Code, path: Sequence[int]) -> int:
    return sum(len(code.blocks[i]) for i in path)


def _cycle(code: Code, a: int, b: int) -> list[int] | None:
    """The cheapest way from block a through b back to a: the blocks on it, a once."""
    if a == b:
        return _way(code, a, a)
    there, back = _way(code, a, b), _way(code, b, a)
    return None if there is None or back is None else there + back


def _way(code: Code, start: int, end: int) -> list[int] | None:
    """The cheapest way from `start` to `end`, without `end`."""
    waiting = [(len(code.blocks[start]), start, [start])]
    seen: set[int] = set()
    while waiting:
        cost, at, path = heapq.heappop(waiting)
        if at in seen:
            continue
        if at != start or len(path) > 1:
            seen.add(at)
        for i in code.following[at]:
            if i == end:
                return path
            if i not in seen:
                heapq.heappush(waiting, (cost + len(code.blocks[i]), i, [*path, i]))
    return None
