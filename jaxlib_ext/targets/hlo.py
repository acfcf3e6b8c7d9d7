"""Compiled programs as text, read into computations and instructions. Knows the grammar and no meaning.

>>> text = '''HloModule jit_f, num_partitions=2
... ENTRY %main (a: f32[2,2]) -> f32[2,2] {
...   %a = f32[2,2]{1,0} parameter(0)
...   ROOT %d = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}, metadata={op_name="jit(f)/dot"}
... }'''
>>> module = parse(text)
>>> root = module.computations[module.entry].root
>>> root.opcode, root.operands, root.attribute("lhs_contracting_dims"), root.op_name
('dot', ('a', 'a'), '{1}', 'jit(f)/dot')
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

_NAME = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([\w\-]+)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_REFERENCE = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|branch_computations|called_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_OPEN, _CLOSE = "([{", ")]}"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """shape: as text. operands: names in the same computation. inside: the text between the opcode's brackets.
    rest: all attributes as text."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool = False

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` as text, with its brackets; None if there is none."""
        found = re.search(rf"(?:^|[\s,{{]){re.escape(name)}=", self.rest)
        return None if found is None else _value(self.rest, found.end())

    @property
    def op_name(self) -> str:
        """Where in the source program it comes from, as jax names it."""
        found = _OP_NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Role -> computations that it calls."""
        return {role: tuple(re.findall(r"[\w.\-]+", names)) for role, names in _CALLED.findall(self.rest)}


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        return next((i for i in self.instructions.values() if i.root), list(self.instructions.values())[-1])

    @functools.cached_property
    def parameters(self) -> dict[int, str]:
        """Number -> name."""
        return {int(i.inside): i.name for i in self.instructions.values() if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> instructions that take it."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return found

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


@dataclasses.dataclass(frozen=True)
class Module:
    header: str
    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Module:
    """Raises ValueError if the text has no entry computation."""
    header, entry, name, body, found = "", "", None, {}, {}
    for line in text.splitlines():
        if line.startswith("HloModule"):
            header = line
        elif name is None:
            begin = _COMPUTATION.match(line)
            if begin:
                name, body = begin[2], {}
                entry = name if begin[1] else entry
        elif line.startswith("}"):
            found[name], name = Computation(name, body), None
        else:
            instruction = _instruction(line)
            if instruction:
                body[instruction.name] = instruction
    if not entry:
        raise ValueError("this is no compiled program: it has no ENTRY computation")
    return Module(header, entry, found)


def _instruction(line: str) -> Instruction | None:
    begin = _NAME.match(line)
    if not begin:
        return None
    at = begin.end()
    end = closing(line, at) if line[at] == "(" else line.find(" ", at)
    opcode = _OPCODE.match(line, end)
    if not opcode:
        return None
    close = closing(line, opcode.end() - 1)
    inside = line[opcode.end() : close - 1]
    return Instruction(
        begin[2], line[at:end], opcode[1], tuple(_REFERENCE.findall(inside)), inside, line[close:].lstrip(", "),
        bool(begin[1]),
    )  # fmt: skip


def closing(text: str, at: int) -> int:
    """Where the bracket that opens at `at` has closed: the index after it. Strings in quotes are passed over."""
    depth, i = 0, at
    while i < len(text):
        c = text[i]
        if c == '"':
            i += 1
            while i < len(text) and text[i] != '"':
                i += 2 if text[i] == "\\" else 1
        elif c in _OPEN:
            depth += 1
        elif c in _CLOSE:
            depth -= 1
            if not depth:
                return i + 1
        i += 1
    return len(text)


def _value(text: str, at: int) -> str:
    """The value that begins at `at`: up to the next comma outside brackets."""
    i = at
    while i < len(text) and text[i] != ",":
        i = closing(text, i) if text[i] in _OPEN or text[i] == '"' else i + 1
    return text[at:i].strip()
