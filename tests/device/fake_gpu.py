"""torch's answers for a GPU that is not there, for Triton's own driver over fake_cuda.c: see README.md."""

from __future__ import annotations

from types import SimpleNamespace

import torch

GPU = SimpleNamespace(name="fake", major=9, minor=0, total_memory=80 * 10**9, L2_cache_size=50 * 2**20)

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.current_device = lambda: 0
torch.cuda.set_device = lambda device: None
torch.cuda.get_device_capability = lambda device=None: (GPU.major, GPU.minor)
torch.cuda.get_device_properties = lambda device=None: GPU
torch.cuda.current_stream = lambda device=None: SimpleNamespace(cuda_stream=0)
torch._C._cuda_getCurrentRawStream = lambda device: 0  # what Triton asks where torch is built with CUDA
