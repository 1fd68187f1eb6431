"""The CNN in PyTorch: the same weights and examples, in PyTorch's own convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_torch(tree: Any) -> list[torch.Tensor]:
    """The CNN's parameters, or a direction, as PyTorch lists them."""
    arrays = []
    for name in sorted(tree):
        kernel, bias = (np.asarray(tree[name][part]) for part in ("kernel", "bias"))
        arrays += [kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T, bias]
    return [torch.tensor(array.copy()) for array in arrays]


def cnn(params: Any) -> torch.nn.Module:
    """The network with these weights."""
    layers: list[torch.nn.Module] = []
    tensors, channels = as_torch(params), 3
    for kernel in tensors[:-2:2]:
        convolution = torch.nn.Conv2d(channels, len(kernel), 3, padding=1)
        layers += [convolution, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        channels = len(kernel)
    linear = torch.nn.Linear(channels, len(tensors[-1]))
    network = torch.nn.Sequential(
        *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear
    )
    for parameter, tensor in zip(network.parameters(), tensors, strict=True):
        parameter.data = tensor
    return network


def batch_of(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images = np.asarray(batch["inputs"]).transpose(0, 3, 1, 2)
    return torch.tensor(images.copy()), torch.tensor(np.asarray(batch["targets"], np.int64))
