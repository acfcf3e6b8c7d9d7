"""How often each computation of a program runs in one call of it: loops by their trip counts.

A loop's count is the compiler's own `known_trip_count` where it is printed (CPU, GPU); elsewhere (TPU) it is read from
the loop: the constant that the counter is compared with, where the counter starts, and its step. Every branch of a
conditional is counted.
"""

import dataclasses
import math
import re

from .hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?[:=]\s*"?(\d+)')
_CALLS = ("calls", "branch_computations", "true_computation", "false_computation", "called_computations")
_STARTS = ("async-start", "call-start")  # of what another engine does beside: on tpu7x SparseCore's collectives
_THROUGH = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start")


@dataclasses.dataclass(frozen=True)
class Runs:
    """times: computation -> how often it runs in a call. own: those whose instructions are kernels of their own, which
    the inside of a fusion is not. unknown: loops whose count could not be read; their bodies are counted once."""

    times: dict[str, float]
    own: tuple[str, ...]
    unknown: tuple[str, ...]


def runs(module: Module) -> Runs:
    """Only what is executed by itself is in `times`: functions of reductions and sorts are not."""
    times: dict[str, float] = {}
    own: dict[str, None] = {}
    unknown: list[str] = []

    def visit(name: str, weight: float, fused: bool = False) -> None:
        if name not in module.computations:
            return
        times[name] = times.get(name, 0.0) + weight
        if not fused:
            own[name] = None
        for instruction in module.computations[name]:
            called = instruction.called
            if instruction.opcode == "while":
                trips = trip_count(module, module.computations[name], instruction)
                if trips is None:
                    unknown.append(instruction.name)
                for body in called.get("body", ()):
                    visit(body, weight * (1 if trips is None else trips))
                continue
            for role in _CALLS:
                for inner in called.get(role, ()):
                    visit(inner, weight, fused or role == "calls")
            if instruction.opcode in ("call", *_STARTS):
                for inner in called.get("to_apply", ()):
                    visit(inner, weight, fused or instruction.opcode in _STARTS)

    visit(module.entry, 1.0)
    return Runs(times, tuple(own), tuple(unknown))


def trip_count(module: Module, around: Computation, loop: Instruction) -> int | None:
    """Of a while instruction in the computation `around`; None where it depends on data or cannot be read."""
    known = _KNOWN.search(loop.rest)
    if known:
        return int(known[1])
    called = loop.called
    try:
        condition, body = (module.computations[called[role][0]] for role in ("condition", "body"))
    except KeyError:
        return None
    test = _comparison(module, condition)
    if test is None:
        return None
    counter, bound, direction = test
    start = _initial(around, loop, counter)
    end = bound[1] if bound[0] == "constant" else _initial(around, loop, bound[1])
    step = _step(module, body, counter)
    if start is None or end is None or not step:
        return None
    if direction == "LE":
        end += 1
    if direction == "GE":
        end -= 1
    return max(0, math.ceil((end - start) / step))


def _comparison(module: Module, condition: Computation) -> tuple[int, tuple[str, int], str] | None:
    """(place of the counter in the loop's tuple, ("constant", value) or ("place", place) of the bound, direction)."""
    outer = [_leaf(condition, name) for name in condition.root.operands]
    compare, sides = condition.root, outer
    if compare.opcode == "fusion":
        inner = module.computations[compare.called["calls"][0]]
        compare = inner.root
        named = {inner.parameters[i]: side for i, side in enumerate(outer) if i in inner.parameters}
        sides = [named.get(name) or _leaf(inner, name) for name in compare.operands]
    if compare.opcode != "compare" or len(sides) != 2:
        return None
    direction = compare.attribute("direction")
    (kind_a, a), (kind_b, b) = sides
    if kind_a == "place" and kind_b in ("place", "constant") and direction in ("LT", "LE", "GT", "GE"):
        return a, (kind_b, b), direction
    if kind_a == "constant" and kind_b == "place" and direction in ("GT", "LT"):
        return b, (kind_a, a), {"GT": "LT", "LT": "GT"}[direction]
    return None


def _leaf(computation: Computation, name: str) -> tuple[str, int]:
    """What a scalar is: ("constant", value), ("place", index in the parameter's tuple) or ("unknown", 0)."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in _THROUGH and instruction.operands:
        instruction = computation.instructions.get(instruction.operands[0])
    if instruction is None:
        return "unknown", 0
    if instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.inside.strip()):
        return "constant", int(instruction.inside)
    if instruction.opcode == "get-tuple-element":
        source = computation.instructions[instruction.operands[0]]
        index = int(instruction.attribute("index") or 0)
        if source.opcode == "parameter":
            return "place", index
        if source.opcode == "tuple":
            return _leaf(computation, source.operands[index])
    return "unknown", 0


def _initial(around: Computation, loop: Instruction, place: int) -> int | None:
    """The constant that a place of the loop's tuple starts with."""
    source = around.instructions.get(loop.operands[0])
    while source is not None and source.opcode in _THROUGH:
        source = around.instructions.get(source.operands[0])
    if source is None or source.opcode != "tuple":
        return None
    kind, value = _leaf(around, source.operands[place])
    return value if kind == "constant" else None


def _step(module: Module, body: Computation, counter: int) -> int | None:
    """What a turn adds to the counter."""
    root = body.root
    if root.opcode != "tuple":
        return None
    new = body.instructions.get(root.operands[counter])
    while new is not None and new.opcode in _THROUGH:
        new = body.instructions.get(new.operands[0])
    if new is None:
        return None
    sides = [_leaf(body, name) for name in new.operands]
    if new.opcode == "fusion":
        inner = module.computations[new.called["calls"][0]]
        named = {inner.parameters[i]: side for i, side in enumerate(sides) if i in inner.parameters}
        new = inner.root
        sides = [named.get(name) or _leaf(inner, name) for name in new.operands]
    added = [value for kind, value in sides if kind == "constant"]
    if new.opcode == "add" and ("place", counter) in sides and added:
        return added[0]
    if new.opcode == "subtract" and sides[0] == ("place", counter) and added:
        return -added[0]
    return None
