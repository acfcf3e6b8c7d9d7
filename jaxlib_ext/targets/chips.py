"""What one device of each kind can do, as its maker states it.

Every figure is per jax device and, where it has a direction, per direction. Sources, read November 2026:

    v5e     docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s bf16, 16 GB, 819 GB/s (now printed as 800 GiB/s), ICI 400
            GB/s both ways over 4 ports, data-centre network 6.4 Tbit/s for a pod of 256
    v5p     docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, ICI 1200 GB/s both ways, network 50
            Gbit/s a chip
    v6e     docs.cloud.google.com/tpu/docs/v6e and /tpu7x: 918 TFLOP/s, 32 GB, 1638 GB/s, ICI 800 GB/s both ways over 4
            ports, network 100 Gbit/s a chip
    tpu7x   docs.cloud.google.com/tpu/docs/tpu7x: a chip has 2307 TFLOP/s, 192 GiB, 7380 GB/s, ICI 1200 GB/s both ways,
            network 100 Gbit/s, and is two jax devices, each with half of its compute and memory
    h100    NVIDIA H100 SXM data sheet: 1979 TFLOP/s bf16 with sparsity, so 989.5 dense, 80 GB, 3.35 TB/s, NVLink 900
            GB/s both ways; memory that a program can see: OpenXLA, target_config/specs/h100_sxm.txtpb
    h200    NVIDIA H200 SXM data sheet: the same compute and NVLink, 141 GB, 4.8 TB/s; specs/h200.txtpb
    nodes   NVIDIA DGX H100 and H200 user guide: 8 GPUs with a ConnectX-7 of 400 Gbit/s each

A torus axis is closed to a ring at 16 chips on v5e and v6e and at multiples of 4 on v5p and tpu7x (jax-ml/scaling-book,
tpus.md). A link's one-way speed is the chip's two-way figure over twice its ports: 4 in two dimensions, 6 in three.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """peak: dense bfloat16 FLOP/s. memory: bytes. bandwidth: of that memory, bytes/s. link: bytes/s one way, of one
    torus link or of all NVLinks of a GPU. network: bytes/s one way of a chip to other slices or nodes. dims: of the
    torus, 0 for a switch. ring: axis lengths that are multiples of it are closed to a ring. cores: devices a chip.
    """

    name: str
    platform: str
    peak: float
    memory: int
    bandwidth: float
    link: float
    network: float
    dims: int = 0
    ring: int = 1
    cores: int = 1


CHIPS = {
    "v5e": Chip("v5e", "tpu", 197e12, 16 * GIB, 819e9, 50e9, 3.125e9, dims=2, ring=16),
    "v5p": Chip("v5p", "tpu", 459e12, 95 * GIB, 2765e9, 100e9, 6.25e9, dims=3, ring=4),
    "v6e": Chip("v6e", "tpu", 918e12, 32 * GIB, 1638e9, 100e9, 12.5e9, dims=2, ring=16),
    "tpu7x": Chip("tpu7x", "tpu", 2307e12 / 2, 96 * GIB, 7380e9 / 2, 100e9, 12.5e9, dims=3, ring=4, cores=2),
    "h100": Chip("h100", "cuda", 989.5e12, 84942979072, 3.35e12, 450e9, 50e9),
    "h200": Chip("h200", "cuda", 989.5e12, 151397597184, 4.8e12, 450e9, 50e9),
}
