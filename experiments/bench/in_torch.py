"""Our models in PyTorch, with the same weights, and the updates of training there.

Whatever can be is as PyTorch is fastest: its own convolutions and attention, a fused AdamW. The
device is a GPU if PyTorch finds one.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional as F

from experiments.bench.ours import Step
from wsdjax import interop, models
from wsdjax.config import AdamW, Transformer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def prepare(tf32: bool) -> None:
    """As many threads as XLA has, and on a GPU products of float32 in TF32 or not."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def as_torch(tree: Any) -> list[torch.Tensor]:
    """The CNN's parameters, or a direction, as PyTorch lists them."""
    arrays = []
    for name in sorted(tree):
        kernel, bias = (np.asarray(tree[name][part]) for part in ("kernel", "bias"))
        arrays += [kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T, bias]
    return [torch.tensor(array.copy(), device=DEVICE) for array in arrays]


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
    """(images, channels first, or tokens; targets) of a batch of ours without replicates."""
    inputs = np.asarray(batch["inputs"])
    inputs = inputs.transpose(0, 3, 1, 2) if inputs.ndim == 4 else inputs.astype(np.int64)
    targets = np.asarray(batch["targets"], np.int64)
    return torch.tensor(inputs.copy(), device=DEVICE), torch.tensor(targets, device=DEVICE)


class Llama(torch.nn.Module):
    """A LLaMA of ours without grouped queries, whose weights are ours, each matrix
    [inputs, outputs]."""

    def __init__(self, config: Transformer, params: Any):
        super().__init__()
        self.config = config
        self.weights = torch.nn.ParameterDict()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = "-".join(key.key for key in path)
            layers = leaf if name.startswith("layers-") else leaf[None]
            for i, part in enumerate(layers):
                tensor = torch.tensor(np.array(part), device=DEVICE)
                self.weights[f"{i}-{name}"] = torch.nn.Parameter(tensor)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, L, V]."""
        config, weights = self.config, self.weights
        (B, L), size = tokens.shape, config.width // config.heads
        turns = torch.arange(0, size, 2, device=tokens.device) / size
        angles = torch.outer(torch.arange(L, device=tokens.device), config.rotary_theta**-turns)
        cos, sin = angles.cos(), angles.sin()

        def norm(x, name):
            return F.rms_norm(x, (config.width,), weights[name], config.norm_eps)

        def heads(x):
            return x.view(B, L, config.heads, size).transpose(1, 2)

        def rotated(x):
            first, second = x.chunk(2, -1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

        x = F.embedding(tokens, weights["0-embed-embedding"])
        for i in range(config.layers):
            layer = f"{i}-layers"
            read = norm(x, f"{layer}-attention_norm-scale")
            q, k, v = (
                heads(read @ weights[f"{layer}-attention-{part}-kernel"])
                for part in ("query", "key", "value")
            )
            seen = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
            seen = seen.transpose(1, 2).reshape(B, L, -1)
            x = x + seen @ weights[f"{layer}-attention-out-kernel"]
            read = norm(x, f"{layer}-mlp_norm-scale")
            gate, up = (read @ weights[f"{layer}-mlp-{part}-kernel"] for part in ("gate", "up"))
            x = x + (F.silu(gate) * up) @ weights[f"{layer}-mlp-down-kernel"]
        return norm(x, "0-final_norm-scale") @ weights["0-head-kernel"]


class Neox(torch.nn.Module):
    """transformers' GPT-NeoX with PyTorch's fused attention."""

    def __init__(self, model: models.Model, params: Any):
        super().__init__()
        from transformers import GPTNeoXForCausalLM

        with tempfile.TemporaryDirectory() as directory:
            interop.save_huggingface(model, params, directory)
            network: Any = GPTNeoXForCausalLM.from_pretrained(
                directory, attn_implementation="sdpa", dtype=torch.float32
            )
        self.network = network.to(DEVICE)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.network(tokens, use_cache=False).logits


def of_step(step: Step, **how: Any) -> tuple[Callable[[int], list[float]], torch.nn.Module]:
    """The work of a step's first replicate, from the same weights and on the same batch, as
    `updates` are told; and the network that it trains."""
    prepare(tf32=True)
    config: Any = step.branch.model
    of_all = step.state.params, step.batch
    params, batch = jax.device_get(jax.tree.map(lambda leaf: leaf[0], of_all))
    network: torch.nn.Module
    if isinstance(config, Transformer):
        network = Llama(config, params) if config.gated else Neox(step.model, params)
        how = {"parts": step.branch.accumulate, "bfloat16": config.compute == "bfloat16"} | how
    else:
        network = cnn(params)
    given = batch_of(batch), step.branch.optimizer, float(step.hyper.rate[0])
    return updates(network, *given, **how), network


def updates(
    network: torch.nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    optimizer: AdamW,
    rate: float,
    parts: int = 1,
    bfloat16: bool = False,
    compiled: bool = False,
    channels_last: bool = False,
    graph: bool = False,
) -> Callable[[int], list[float]]:
    """A work: n updates of training on one batch. It returns the losses before each.

    Args:
      parts: micro-batches, part i of which has the examples i, i + parts, ..., as ours.
      bfloat16: whether products are computed in it, under autocast.
      compiled: by ``torch.compile``, forward and backward pass.
      channels_last: the layout of convolutions.
      graph: replays the whole update as a CUDA graph.
    """
    if graph and DEVICE != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    inputs, targets = batch
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        inputs = inputs.to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim < 2]
    rest: Any = {"betas": (optimizer.b1, optimizer.b2), "eps": optimizer.eps, "capturable": graph}
    groups = [
        {"params": matrices, "weight_decay": optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=rate, fused=True, **rest)

    def loss_of(inputs, targets):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bfloat16):
            logits = network(inputs)
        return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())

    loss_of = torch.compile(loss_of, dynamic=False) if compiled else loss_of
    cut = [(inputs[i::parts], targets[i::parts]) for i in range(parts)]

    def update():
        adamw.zero_grad(set_to_none=True)
        losses = []
        for part in cut:
            loss = loss_of(*part) / parts if parts > 1 else loss_of(*part)
            loss.backward()
            losses.append(loss.detach())
        if math.isfinite(optimizer.clip_norm):
            torch.nn.utils.clip_grad_norm_(parameters, optimizer.clip_norm)
        adamw.step()
        return sum(losses[1:], start=losses[0])

    once = _graphed(update) if graph else update

    def work(count):
        losses = [once() for _ in range(count)]
        return torch.stack(losses).tolist()  # which waits for them

    return work


def _graphed(update: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The update as one CUDA graph, after some on a stream of their own, as PyTorch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = update()

    def replay():
        graph.replay()
        return loss.clone()

    return replay
