"""The tensors of a directory's safetensors files, by name, read one at a time.

What is damaged, or does not fit, is an InteropError that names the file.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from wsdjax.interop.foreign_config import InteropError, read_json
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")
_READ = ("F64", "F32", "F16", "BF16")
"""The dtypes that are weights; those of 8 bits and fewer mean nothing without their scales."""


class Tensor(NamedTuple):
    """A tensor that is not read yet."""

    file: Path
    name: str
    """Its name in the file."""
    opened: Any

    def check(self, shape: tuple[int, ...]) -> None:
        """Checks by the file's header that the tensor has this shape and can be read."""
        header = self.opened.get_slice(self.name)
        if tuple(header.get_shape()) != shape:
            raise InteropError(
                f"{self.file}: {self.name!r} has the shape {tuple(header.get_shape())}; by "
                f"config.json it is {shape}"
            )
        if header.get_dtype() not in _READ:
            raise InteropError(
                f"{self.file}: {self.name!r} is of dtype {header.get_dtype()}: only "
                f"{', '.join(_READ)} can be read; save the model in one of them"
            )

    def read(self) -> np.ndarray:
        """The tensor, checked before, in float32."""
        try:
            values = self.opened.get_tensor(self.name)
        except (SafetensorError, OSError) as error:
            raise InteropError(f"{self.file}: {self.name!r} cannot be read ({error})") from None
        with np.errstate(over="ignore"):
            values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise InteropError(f"{self.file}: {self.name!r} holds NaN or infinity: fetch it again")
        return values


def find(directory: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that lists the tensors, and the tensors: those of `model.safetensors` or, if there
    is none, of the shards that its index names."""
    whole, index = (directory / f"model.safetensors{end}" for end in ("", ".index.json"))
    if whole.exists():
        return whole, _in_file(whole, whole)
    if not index.exists():
        raise FileNotFoundError(
            f"{whole} is not there, nor is {index.name}: weights in another format, such as "
            "pytorch_model.bin, must be saved as safetensors first"
        )
    shards = read_json(index).get("weight_map")
    if not (isinstance(shards, dict) and shards):
        raise InteropError(f"{index}: has no weight_map of tensors' files: fetch it again")
    for name, file in shards.items():
        if not (isinstance(file, str) and Path(file).name == file):
            raise InteropError(f"{index}: {name!r} is in no file of its directory: {file!r}")
    found: dict[str, Tensor] = {}
    for file in sorted(set(shards.values())):
        there = _in_file(directory / file, index)
        if twice := sorted(found.keys() & there):
            raise InteropError(
                f"{index}: {twice[0]!r} is in {found[twice[0]].file.name} and in {file}: which is "
                "the model's is not known"
            )
        found |= there
    for name, file in shards.items():
        if name not in found or found[name].file.name != file:
            raise InteropError(f"{index}: {name!r} is not in {file}: fetch both again")
    return index, found


def _in_file(file: Path, listing: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there: {listing.name} names it")
    try:
        opened: Any = safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        reason = f"{error}"[:100]
        raise InteropError(f"{file} is damaged ({reason}): fetch it again") from None
    return {name: Tensor(file, name, opened) for name in opened.keys()}  # noqa: SIM118, no dict


def aligned(
    listing: Path, tensors: dict[str, Tensor], embedding: str, base: str
) -> dict[str, Tensor]:
    """The tensors by the names of a model with a head, whose embedding is `embedding`, in the
    module `base`: without what stands before each name (``_orig_mod.``, ``module.``), and with
    `base` before those of a model without head."""
    last = embedding.removeprefix(base)
    found = [name for name in tensors if f".{name}".endswith(f".{last}")]
    if embedding in found or len(found) != 1:
        return tensors
    before = found[0].removesuffix(last)
    missing = base if not f".{before}".endswith(f".{base}") else ""
    before = before if missing else before.removesuffix(base)
    if other := [name for name in tensors if not name.startswith(before)]:
        raise InteropError(
            f"{listing}: {found[0]!r} begins with {before!r} and {listed(other, 3)} not: save the "
            "model alone, by the names that transformers gives"
        )
    if before:
        log.warning("%s: read without %r, which every name begins with", listing, before)
    return {missing + name.removeprefix(before): tensor for name, tensor in tensors.items()}
