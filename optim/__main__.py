"""`python -m jaxlib_ext.optim`: every rule with the bytes that it holds a parameter, in every slot format."""

import jax
import jax.numpy as jnp

from . import RULES, slot_bytes, transform

FORMATS = ("f32", "bf16", "fp8:128", "int8:128", "coat:128")


def main() -> None:
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    params = dict(w=shape(512, 2048), b=shape(2048))
    print("bytes of optimizer state a parameter; parameters are a matrix 512 x 2048 and a vector\n")
    print(f"{'rule':22s}" + "".join(f"{name:>10s}" for name in FORMATS))
    for name, rule in RULES.items():
        row = [slot_bytes(transform(rule(), 1e-3, formats=fmt), params)["all"] for fmt in FORMATS]
        print(f"{name:22s}" + "".join(f"{each:10.2f}" for each in row))


if __name__ == "__main__":
    main()
