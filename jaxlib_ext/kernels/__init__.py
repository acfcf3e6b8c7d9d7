"""Operations with one public function each; an XLA form that runs everywhere is the reference for the others.

"In float32" means inputs, sums and states. Products of float32 take jax's default precision: float32 on CPU, operands
rounded to bfloat16 on a TPU and to TF32 on recent NVIDIA GPUs, as the papers' kernels do; exact.py has those that ask
for more whatever the default is. jax.default_matmul_precision("float32") raises all of them.
"""
