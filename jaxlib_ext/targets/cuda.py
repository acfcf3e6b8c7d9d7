"""The description of an absent NVIDIA GPU that the CUDA compiler asks for.

Figures of the Hopper generation as in OpenXLA, xla/backends/gpu/target_config/specs/h100_sxm.txtpb and h200.txtpb.
"""

from .chips import Chip

_NAMES = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200 141GB HBM3e"}
_HOPPER = """\
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}  l2_cache_size: 52428800  clock_rate_ghz: 1.98  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


def spec(chip: Chip) -> str:
    """A GpuTargetConfigProto as text."""
    return _HOPPER.format(bandwidth=int(chip.bandwidth), memory=chip.memory, name=_NAMES[chip.name])
