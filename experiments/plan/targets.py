"""NVIDIA's GPUs as XLA's compiler is told of them where there is none: the text of its
`GpuTargetConfigProto`, whose numbers are the driver's of each."""

_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: 1.98
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 28 patch: 1 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""

TARGETS = {
    "h100": _HOPPER.format(
        bandwidth=3_352_320_000_000,
        cache=52_428_800,
        memory=84_942_979_072,
        name="NVIDIA H100 80GB HBM3",
    ),
    "h200": _HOPPER.format(
        bandwidth=4_800_000_000_000, cache=62_914_560, memory=150_754_820_096, name="NVIDIA H200"
    ),
}
