"""Peak rates of devices, so that speed is printed as a share of the limit."""

import functools
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one device as its maker states it, by a part of jax's device_kind.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


@functools.cache
def peak_flops() -> tuple[float, str]:
    """(FLOP/s of one device here, where the figure is from); 0 where it is not known.

    On a CPU the float32 matrix product is measured, n = 1024, for about a tenth of a second.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return _measured(), "measured float32 matmul"
    for part, peak in PEAK.items():
        if part.lower() in device.device_kind.lower():
            return peak, "maker's dense bfloat16 figure"
    return 0.0, f"unknown device {device.device_kind}"


def _measured(n: int = 1024, turns: int = 5) -> float:
    a = jnp.ones((n, n))
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()

    def seconds():
        begin = time.perf_counter()
        multiply(a, a).block_until_ready()
        return time.perf_counter() - begin

    # Host devices share the cores of one machine.
    return 2 * n**3 / min(seconds() for _ in range(turns)) / jax.local_device_count()
