"""Floating-point operations of the matrix units: contractions and convolutions of a compiled program, loops included.

`cost_analysis()` of jax counts the body of a loop once and is zero for absent GPUs, hence this.
"""

import json
import math
import re

import numpy as np

from .hlo import Computation, Instruction, Module
from .loops import Runs
from .shapes import Array, arrays

_WINDOW = re.compile(r"(\w+)=([\w.]+)")


def matmul_flops(module: Module, runs: Runs) -> tuple[dict[str, float], tuple[str, ...]]:
    """Operand dtype -> FLOPs of one call on one device, and the kernels that cannot be counted.

    A multiply and an add are two. The dtype is that of the first operand where it stands in the program: XLA may widen
    bfloat16 to float32 in the same kernel, and it is then looked for before the conversion.
    """
    total: dict[str, float] = {}
    hidden = []
    for name, times in runs.times.items():
        computation = module.computations[name]
        for instruction in computation:
            flops, dtype = _of(computation, instruction)
            if flops:
                total[dtype] = total.get(dtype, 0.0) + times * flops
            if instruction.opcode == "custom-call" and _kernel(instruction):
                hidden.append(_kernel(instruction))
    return total, tuple(sorted(set(hidden)))


def _kernel(instruction: Instruction) -> str:
    """The target of a custom call that runs a kernel whose operations the program does not show."""
    name = (instruction.attribute("custom_call_target") or "").strip('"')
    return name if any(k in name for k in ("tpu_custom_call", "triton", "mosaic", "cudnn")) else ""


def _of(computation: Computation, instruction: Instruction) -> tuple[float, str]:
    if instruction.opcode == "dot":
        over = _dims(instruction.attribute("lhs_contracting_dims"))
    elif instruction.opcode == "convolution":
        return _convolution(computation, instruction), _dtype(computation, instruction.operands[0])
    elif instruction.opcode == "custom-call" and "gemm" in (instruction.attribute("custom_call_target") or ""):
        config = json.loads(instruction.attribute("backend_config") or "{}")
        numbers = config.get("gemm_backend_config", {}).get("dot_dimension_numbers", {})
        over = tuple(int(d) for d in numbers.get("lhs_contracting_dimensions", ()))
    else:
        return 0.0, ""
    lhs, out = _array(computation, instruction.operands[0]), arrays(instruction.shape)[0]
    return 2.0 * out.size * math.prod(lhs.dims[d] for d in over), _dtype(computation, instruction.operands[0])


def _dims(text: str | None) -> tuple[int, ...]:
    return tuple(int(d) for d in (text or "").strip("{}").split(",") if d)


def _array(computation: Computation, name: str) -> Array:
    return arrays(computation.instructions[name].shape)[0]


def _dtype(computation: Computation, name: str) -> str:
    instruction = computation.instructions[name]
    while instruction.opcode in ("convert", "copy", "bitcast", "transpose", "reshape"):
        instruction = computation.instructions[instruction.operands[0]]
    return arrays(instruction.shape)[0].dtype


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """XLA turns contractions into convolutions on a TPU, batch dimensions into spatial ones with padding and holes, so
    only pairs of positions that meet inside the input are counted."""
    lhs, kernel = (_array(computation, name) for name in instruction.operands[:2])
    out = arrays(instruction.shape)[0]
    inputs, kernels, outputs = re.split(r"_|->", instruction.attribute("dim_labels") or "")
    window = dict(_WINDOW.findall((instruction.attribute("window") or "").strip("{}")))
    batches = int(instruction.attribute("batch_group_count") or 1)
    flops = 2.0 * kernel.dims[kernels.index("i")] * kernel.dims[kernels.index("o")]
    flops *= lhs.dims[inputs.index("b")] / batches
    for axis in range(len(inputs) - 2):
        label = str(axis)
        of = lambda name, default, axis=axis: _axis(window.get(name), axis, default)
        low = _axis(window.get("pad"), axis, "0_0")
        flops *= _meetings(
            lhs.dims[inputs.index(label)], kernel.dims[kernels.index(label)], out.dims[outputs.index(label)],
            stride=int(of("stride", "1")), low=int(low.split("_")[0]), holes=int(of("lhs_dilate", "1")),
            spread=int(of("rhs_dilate", "1")),
        )  # fmt: skip
    return flops


def _axis(text: str | None, axis: int, default: str) -> str:
    return text.split("x")[axis] if text else default


def _meetings(size: int, kernel: int, out: int, *, stride: int, low: int, holes: int, spread: int) -> int:
    """Pairs of output position and kernel tap that fall on an element of the input."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * spread - low
    return int(((at >= 0) & (at % holes == 0) & (at // holes < size)).sum())
