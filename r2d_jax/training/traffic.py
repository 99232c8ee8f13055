"""What chips say to each other; in: a compiled program's text, out: collective operations by kind, with their bytes."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r" = (?P<type>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?P<start>-start)?\("
)
_ARRAY = re.compile(r"(pred|[su]\d+|bf16|f\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CONSTANT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_GRID_GROUPS = re.compile(r"replica_groups=\[(?:\d+,)*(\d+)\]<=")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")


class Traffic(NamedTuple):
    """Collective operations of one kind.

    Attributes:
        times: how often one is done in a run of the program.
        bytes: sizes of the whole arrays that a group gathers, sums or exchanges, added up.
    """

    times: int
    bytes: int


class _Operation(NamedTuple):
    kind: str
    bytes: int
    channel: str


def collective_traffic(text: str) -> dict[str, Traffic]:
    """Kind to traffic of one run of a compiled program, as one device sees it.

    A loop counts as often as the constant in its condition allows at most, a branch as if it were taken.
    An operation that the compiler has spread over several fusions has one channel and counts once.

    Args:
        text: HLO after partitioning and scheduling (`compiled.as_text()`).
    """
    bodies = _computations(text)
    # Text in tests, and that of one device, may have no entry of this form.
    entry = next((name for name, (is_entry, _) in bodies.items() if is_entry), None)
    most: dict[str, tuple[_Operation, int]] = {}

    def visit(lines: list[str], times: int) -> None:
        for line in lines:
            operation = _operation(line)
            if operation is not None:
                done = most.get(operation.channel, (operation, 0))[1]
                most[operation.channel] = (operation, max(times, done))
            for name, steps in _callees(line, bodies):
                if name in bodies:
                    visit(bodies[name][1], times * steps)

    visit(bodies[entry][1] if entry else text.splitlines(), 1)
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for operation, times in most.values():
        found[operation.kind][0] += times
        found[operation.kind][1] += times * operation.bytes
    return {kind: Traffic(*sums) for kind, sums in sorted(found.items())}


def _computations(text: str) -> dict[str, tuple[bool, list[str]]]:
    bodies: dict[str, tuple[bool, list[str]]] = {}
    current: list[str] = []
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        head = _HEAD.match(line)
        if head:
            current = []
            bodies[head[1]] = (line.startswith("ENTRY"), current)
        else:
            current.append(line)
    return bodies


def _callees(line: str, bodies: dict[str, tuple[bool, list[str]]]) -> Iterator[tuple[str, int]]:
    loop = _WHILE.search(line)
    if loop:
        limits = [
            int(found[1]) for at in bodies.get(loop[1], (False, []))[1] for found in _CONSTANT.finditer(at)
        ]
        steps = max(limits, default=1)
        yield loop[1], steps
        yield loop[2], steps
        return
    for called in _CALLED.finditer(line):
        yield called[1], 1
    branches = _BRANCHES.search(line)
    if branches:
        for name in branches[1].split(","):
            yield name.strip().lstrip("%"), 1


def _operation(line: str) -> _Operation | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    # Only an all-reduce has no operands beside its results where it is started.
    beside = match["start"] and match["kind"] != "all-reduce"
    size = _started_bytes(match["type"]) if beside else _bytes(match["type"])
    if match["kind"] == "reduce-scatter" and not match["start"]:
        # The result is one device's part.
        size *= _group_size(line)
    channel = re.search(r"channel_id=(\d+)", line)
    return _Operation(match["kind"], size, channel[1] if channel else line)


def _group_size(line: str) -> int:
    mesh = _MESH_GROUPS.search(line)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    grid = _GRID_GROUPS.search(line)
    if grid:
        return int(grid[1])
    listed = _LISTED_GROUPS.search(line)
    return len(listed[1].split(",")) if listed else 1


def _started_bytes(type_text: str) -> int:
    """Bytes of the whole arrays of the type (operands, results, contexts...), in which several are a tuple of theirs.

    The results of a gather are whole, and the operands of a scatter.
    """
    parts, depth = [""], 0
    for char in type_text[1:-1]:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return max(_bytes(part) for part in parts[:2])


def _bytes(type_text: str) -> int:
    return sum(_array_bytes(*array) for array in _ARRAY.findall(type_text))


def _array_bytes(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(dtype.lstrip("bfsu"))
    return bits // 8 * math.prod(int(size) for size in dims.split(",") if size)
