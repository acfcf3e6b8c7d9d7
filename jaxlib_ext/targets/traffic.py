"""Bytes that a compiled program moves to and from a device's main memory, loops included.

Every kernel reads its operands and writes its results once. A kernel that takes a slice of an operand reads the slice;
one that updates a slice in place writes the slice. What lies in on-chip memory is free. This is how the compiler itself
counts bytes accessed, with loops counted as often as they run; caches are left out.
"""

from .hlo import Computation, Instruction, Module
from .loops import Runs
from .shapes import arrays, nbytes

_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency",
)  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")


def memory_bytes(module: Module, runs: Runs) -> float:
    """Of one call on one device."""
    total = 0.0
    for name in runs.own:
        computation = module.computations[name]
        total += runs.times[name] * sum(_bytes(module, computation, i) for i in computation)
    return total


def _bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done") or "AllocateBuffer" in instruction.rest:
        return 0
    shapes = [computation.instructions[name].shape for name in instruction.operands if name in computation.instructions]
    if instruction.opcode == "fusion":
        return _fusion(module, instruction, shapes)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _main(shapes[1])
    if instruction.opcode in _SLICES:
        return 2 * _main(instruction.shape)
    if instruction.opcode in ("copy-start", "slice-start"):  # (target, source, handle) and (source, target, handle)
        target = arrays(instruction.shape)[0 if instruction.opcode == "copy-start" else 1]
        return target.nbytes * sum(not a.space for a in (target, arrays(shapes[0])[0]))
    if instruction.opcode.endswith("-start"):
        return sum(map(_main, shapes)) + max((a.nbytes for a in arrays(instruction.shape) if not a.space), default=0)
    return _main(instruction.shape) + sum(map(_main, shapes))


def _main(shape: str) -> int:
    """Bytes of a shape that lie in main memory."""
    return sum(a.nbytes for a in arrays(shape) if not a.space)


def _fusion(module: Module, fusion: Instruction, shapes: list[str]) -> int:
    inner = module.computations[fusion.called["calls"][0]]
    root = inner.root
    results = [inner.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
    total = 0
    for result, array in zip(results, arrays(fusion.shape), strict=False):
        total += 0 if array.space else _written(module, inner, result, array.nbytes)
    for number, shape in enumerate(shapes):
        if number in inner.parameters and _main(shape):
            total += _read(module, inner, inner.parameters[number], _main(shape))
    return total


def _written(module: Module, inner: Computation, result: Instruction, whole: int) -> int:
    """Bytes that a result costs: those of the slice where one is updated in place."""
    while result.opcode in ("bitcast", "convert", "copy") and result.operands:
        result = inner.instructions[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return nbytes(inner.instructions[result.operands[1]].shape)
    if result.opcode == "fusion":
        deeper = module.computations[result.called["calls"][0]]
        return whole if deeper.root.opcode == "tuple" else _written(module, deeper, deeper.root, whole)
    return whole


def _read(module: Module, inner: Computation, name: str, whole: int) -> int:
    """Bytes of a value that are read: the slices, where nothing but slices of it are taken."""
    total = 0
    for user in inner.users.get(name, ()):
        if user.opcode == "bitcast":
            total += _read(module, inner, user.name, whole)
        elif user.opcode in _SLICES and user.operands[0] == name:
            total += nbytes(user.shape)
        elif user.opcode == "fusion":
            deeper = module.computations[user.called["calls"][0]]
            places = [i for i, operand in enumerate(user.operands) if operand == name]
            total += sum(_read(module, deeper, deeper.parameters[i], whole) for i in places)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return min(whole, total)
