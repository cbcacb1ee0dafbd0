"""The table that is printed at the end, from the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.steps import CONTENDERS, NAMES
from benchmarks.gpu.table import KERNELS, TARGETS

__all__ = ["LONGEST", "targets", "text"]

Report = dict[str, Any]
LONGEST = 12_000  # characters
SHARE, SPEEDUP = 0.9, 3.0
GOALS, SAMPLING = {"torch eager": 5.0, "the best compiled peer": 1.3}, 10.0
"""How many times as fast as these tinygen's compiled steps are to be, and a sampling as eager PyTorch."""
EAGER = {"adam": "torch foreach"}  # what PyTorch's Adam does unasked


def _found(report: Report, part: str) -> dict[str, Any]:
    return report["parts"].get(part, {}).get("found", {})


def copy_rate(report: Report) -> float | None:
    """GB/s of the best way to copy large arrays. (What is written of small ones stays in the L2.)"""
    copies = _found(report, "bandwidth").get("copy", {})
    ways = [way for n in report["about"]["large"] for way in copies.get(str(n), {}).values()]
    return max((way["gb_s"] for way in ways), default=None)


def targets(report: Report) -> dict[str, dict[str, float | None]]:
    """For each kernel that has targets: the least share of a copy's rate, and the least speed-up
    over eager PyTorch, at large sizes; None where one was not measured."""
    copy, sizes = copy_rate(report), [str(n) for n in report["about"]["large"]]
    result = {}
    for name in TARGETS:
        rates = _found(report, "bandwidth").get("kernels", {}).get(name, {})
        ways = _found(report, "peers").get(name, {})
        shares = [rates[n]["gb_s"] / copy for n in sizes if n in rates and copy]
        eager = EAGER.get(name, "torch eager")
        pairs = [
            [ways.get(n, {}).get(way, {}).get("us") for way in (eager, "tinygen")] for n in sizes
        ]
        speedups = [theirs / ours for theirs, ours in pairs if theirs and ours]
        result[name] = {
            "share": min(shares, default=None),
            "speedup": min(speedups, default=None),
        }
    return result


def text(report: Report) -> str:
    """All of it in lines, the targets last; a section that cannot be written says why."""
    lines: list[str] = []
    for section in SECTIONS:
        try:
            lines += ["", *section(report)]
        except Exception as error:
            lines.append(f"{section.__name__}: {type(error).__name__}: {error}")
    whole = "\n".join(lines)
    return whole if len(whole) <= LONGEST else "...\n" + whole[4 - LONGEST :]


def _about(report: Report) -> list[str]:
    about = report["about"]
    parts = [f"{name} {part.get('seconds', 0)} s {part['ended']}".strip()
             for name, part in report["parts"].items()]  # fmt: skip
    versions = ", ".join(
        f"{name} {number}"
        for name, number in about["versions"].items()
        if number != "not installed"
    )
    return [
        f"{about['date']}  {about['device']}, {about['multiprocessors']} multiprocessors, driver "
        f"{about['driver']}, CUDA {about['CUDA of CuPy']}, Python {about['python']}, {versions}",
        f"commit {about['commit']}, kernels {about['kernels']}; " + "; ".join(parts),
    ]


def _kernels(report: Report) -> list[str]:
    """A line for each kernel."""
    check, speed = _found(report, "check"), _found(report, "bandwidth")
    taken, copy = _found(report, "registers").get("kernels", {}), copy_rate(report)
    sizes = list(speed.get("copy", {}))
    head = "error: relative, against float64; bits: elements that the C++ build has otherwise; "
    lines = [
        head + "moved: by geometry or counter",
        "regs: registers + bytes spilled; us: a call from Python on 128 x 784; % of a large copy's rate",
        f"{'kernel':36}{'ok':>5}{'error':>9}{'bits':>6}{'moved':>6}{'regs':>7}{'us':>8}{'GB/s':>6}"
        + "".join(f"{_size(n):>6}" for n in sizes),
    ]
    for kernel in KERNELS:
        c, rates = check.get(kernel.name, {}), speed.get("kernels", {}).get(kernel.name, {})
        r = taken.get(_compiled_name(kernel.name))
        rate = [rates.get(n, {}).get("gb_s") for n in sizes]
        moved = None if "geometry" not in c else c["geometry"] + c["counter"]
        lines.append(
            f"{kernel.name[:35]:36}{ {True: 'ok', False: 'BAD'}.get(c.get('ok'), '-'):>5}"
            f"{_number(c.get('error'), '.0e'):>9}{_number(c.get('bits')):>6}{_number(moved):>6}"
            f"{'-' if r is None else '{num_regs}+{local_size_bytes}'.format(**r):>7}"
            f"{_number(speed.get('small', {}).get(kernel.name), '.1f'):>8}"
            f"{_number(rate[-1] if rate else None, '.0f'):>6}"
            + "".join(f"{_number(x and copy and 100 * x / copy, '.0f'):>6}" for x in rate)
        )
    bad = {name: c for name, c in check.items() if _dict(c) and not c["ok"]}
    return lines + [f"BAD {name}: {c}"[:300] for name, c in bad.items()]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _compiled_name(name: str) -> str:
    return name.split(",")[0]


def _size(n: str | int) -> str:
    n = int(n)
    return f"{n >> 20}M" if n >= 2**20 else str(n)


def _number(value: Any, form: str = "d") -> str:
    return "-" if value is None else format(value, form)


def _copies(report: Report) -> list[str]:
    copies = _found(report, "bandwidth").get("copy", {})
    return ["copy, GB/s:"] + [
        f"  {_size(n)}: " + ", ".join(f"{way} {found['gb_s']:.0f}" for way, found in ways.items())
        for n, ways in copies.items()
    ]


def _variants(report: Report) -> list[str]:
    """Threads in a block x blocks for each multiprocessor."""
    lines = ["launch variants, threads x blocks a multiprocessor, GB/s, the fastest first:"]
    for name, ways in _found(report, "bandwidth").get("variants", {}).items():
        ordered = sorted(ways.items(), key=lambda item: -item[1]["gb_s"])
        lines.append(f"  {name}: " + ", ".join(f"{w} {found['gb_s']:.0f}" for w, found in ordered))
    return lines


def _peers(report: Report) -> list[str]:
    found = _found(report, "peers")
    lines = ["us a call, and how many times tinygen's:"]
    lines += [f"  without PyTorch: {found['without torch']}"] if "without torch" in found else []
    for name, sizes in found.items():
        for n, ways in _dict(sizes).items():
            ours = ways.get("tinygen", {}).get("us")
            words = [
                f"{way} " + (
                    result["error"][:60] if "us" not in result else f"{result['us']:.1f}"
                    + (f" ({result['us'] / ours:.1f}x)" if ours and way != "tinygen" else "")
                )
                for way, result in ways.items()
            ]  # fmt: skip
            lines.append(f"  {name} {_size(n)}: " + ", ".join(words))
    return lines


def _steps(report: Report) -> list[str]:
    """µs of every contender, with what is on the GPU in a step, and how tinygen stands."""
    found = {name: _found(report, f"steps {name}") for name in CONTENDERS}
    peak = found["tinygen"].get("matrix peak")
    lines = [
        f"us of a training step or a sampling (launches); products in float32: "
        f"{_number(peak and peak / 1e12, '.1f')} TFLOP/s"
    ]
    for work in NAMES:
        words = []
        for who, of in found.items():
            one = of.get(work, {})
            time = f"{one['us']:.0f} ({one['launches'] or '-'})" if "us" in one else "-"
            words.append(f"{who} {time}" + (" DIFFERS" if one.get("differs") else ""))
        lines.append(f"  {work}: " + ", ".join(words))
        ours, rates = found["tinygen"].get(work, {}), _times(found, work)
        if peak and ours.get("flops") and "us" in ours:
            share = ours["flops"] / ours["us"] * 1e6 / peak
            lines[-1] += f"; {share:.1%} of the products' peak"
        for goal, ratio in rates.items():
            wanted = GOALS[goal] if work != "sample-784" or goal != "torch eager" else SAMPLING
            lines.append(
                f"    {_judged(ratio, wanted)} {_number(ratio, '.2f')} times {goal} ({wanted})"
            )
    said = {f"{who}, {w}: {x}" for who, of in found.items() for w in NAMES
            if (x := of.get(w, {}).get("differs") or of.get(w, {}).get("error"))}  # fmt: skip
    return lines + [f"  {line}"[:200] for line in sorted(said)]


def _times(found: dict[str, Any], work: str) -> dict[str, float | None]:
    """How many times faster tinygen is than each goal's contenders, of which the fastest counts."""
    ours = found["tinygen"].get(work, {}).get("us")
    goals = {"torch eager": ["torch eager"], "the best compiled peer": ["torch compiled", "jax"]}
    result = {}
    for goal, names in goals.items():
        theirs = [found[n][work]["us"] for n in names if "us" in found[n].get(work, {})]
        result[goal] = min(theirs) / ours if ours and theirs else None
    return result


def _outside(report: Report) -> list[str]:
    lines = []
    for name in ("tests", "tests on the GPU"):
        found = _found(report, name)
        counts = ", ".join(f"{count} {word}" for word, count in found.get("counts", {}).items())
        lines.append(f"{name}: {counts or 'no counts'}; {found.get('skipped', found.get('ended'))}")
        lines += [f"  {line[:150]}" for line in found.get("failed", [])[:8]]
    sanitizer = _found(report, "sanitizer")
    words = [f"{tool} {found['result']}" for tool, found in sanitizer.items() if _dict(found)]
    lines.append("compute-sanitizer: " + (sanitizer.get("skipped") or ", ".join(words)))
    return lines


def _targets(report: Report) -> list[str]:
    copy = copy_rate(report)
    lines = [f"targets, against a copy's {_number(copy, '.0f')} GB/s and eager PyTorch:"]
    for name, found in targets(report).items():
        share, speedup = found["share"], found["speedup"]
        lines.append(
            f"  {name:15}{_judged(share, SHARE)} {_number(share, '.1%')} of the copy (90 %), "
            f"{_judged(speedup, SPEEDUP)} {_number(speedup, '.1f')} times eager (3)"
        )
    return lines


def _judged(value: float | None, goal: float) -> str:
    return "not measured" if value is None else "pass" if value >= goal else "FAIL"


SECTIONS: list[Callable[[Report], list[str]]] = [
    _about, _kernels, _copies, _variants, _peers, _steps, _outside, _targets,
]  # fmt: skip
