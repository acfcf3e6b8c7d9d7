"""Array shapes as compiled programs print them, `bf16[8,128]{1,0:T(8,128)(2,1)S(1)}`, and tuples of them."""

import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_BITS = re.compile(r"[a-z]+(\d+)")
_NO_BYTES = ("token", "opaque")


class Array(NamedTuple):
    """One array. layout: what stands in the braces, "" if nothing does."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; what tiling adds at the edges is not counted."""
        return -(-self.size * bits(self.dtype) // 8)

    @property
    def space(self) -> int:
        """Memory space: 0 is the device's main memory; a TPU's on-chip memories, and host memory, have others."""
        found = _SPACE.search(self.layout)
        return int(found[1]) if found else 0


def bits(dtype: str) -> int:
    """Bits of an element.

    >>> [bits(d) for d in ("bf16", "f32", "pred", "s4", "f8e4m3fn", "token")]
    [16, 32, 8, 4, 8, 0]
    """
    if dtype == "pred":
        return 8
    found = _BITS.match(dtype)
    return int(found[1]) if found and dtype not in _NO_BYTES else 0


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape, those of a tuple in order.

    >>> [a.nbytes for a in arrays("(f32[4,64]{1,0}, /*index=1*/bf16[8]{0:T(1024)(128)(2,1)S(1)}, u32[]{:S(2)})")]
    [1024, 16, 4]
    """
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        found.append(Array(dtype, tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d), layout))
    return tuple(found)


def nbytes(text: str) -> int:
    """Bytes of all arrays of a shape."""
    return sum(a.nbytes for a in arrays(text))
