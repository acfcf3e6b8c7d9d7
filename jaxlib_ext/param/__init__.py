"""One declaration per parameter, and the folds that derive everything else from it."""

from .declare import (
    AXES,
    COMPUTE,
    DECAYED,
    KINDS,
    TRAINED,
    Param,
    bias,
    buffer,
    cache,
    const,
    conv,
    count,
    decay,
    embed,
    gain,
    head,
    matrix,
    state,
    table,
)
from .folds import (
    abstract,
    blocks,
    by_path,
    cast,
    check,
    decayed,
    dequantise,
    fold,
    init,
    join,
    leaves,
    matmul_size,
    nbytes,
    paths,
    quantised,
    size,
    specs,
    split,
    stack,
    zeros,
)
from .scale import Scale, beside, multiplied, scale_of

__all__ = [
    "AXES", "COMPUTE", "DECAYED", "KINDS", "TRAINED", "Param", "Scale", "abstract", "beside", "bias", "blocks",
    "buffer", "by_path", "cache", "cast", "check", "const", "conv", "count", "decay", "decayed", "dequantise",
    "embed", "fold", "gain", "head", "init", "join", "leaves", "matmul_size", "matrix", "multiplied", "nbytes",
    "paths", "quantised", "scale_of", "size", "specs", "split", "stack", "state", "table", "zeros",
]  # fmt: skip
