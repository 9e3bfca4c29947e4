"""The GPUs that plan.py knows.

The figures are from NVIDIA's data sheets of A100 80GB SXM4, H100 SXM5, H200 SXM and DGX B200 (one of its eight), as secondary
tables quote them; none is measured. Peaks are dense, without sparsity. NVLink is one direction, half of what the sheets print.
The network is what the DGX of that generation has for each GPU; the host is reached over 16 lanes of PCIe, generation 4 or 5.
Memory is the sheets' "GB", which are really GiB, within 0.6 %.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    bf16_tflops: float
    fp32_tflops: float  # without tensor cores
    memory_gib: float
    memory_gbytes: float  # per second
    nvlink_gbytes: float  # per second, in each direction
    network_gbits: float  # per second, in each direction
    pcie_gbytes: float  # per second, in each direction


GPUS = {
    "a100": Gpu(312, 19.5, 80, 2039, 300, 200, 32),
    "h100": Gpu(989, 67, 80, 3350, 450, 400, 64),
    "h200": Gpu(989, 67, 141, 4800, 450, 400, 64),
    "b200": Gpu(2250, 75, 180, 8000, 900, 400, 64),
}
