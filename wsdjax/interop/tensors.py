"""The tensors of a directory's safetensors files, by name, read one at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wsdjax.interop.foreign_config import InteropError, read_json
from wsdjax.wording import listed

log = logging.getLogger("wsdjax")
_READ = ("F64", "F32", "F16", "BF16")
"""The dtypes that are weights; those of 8 bits and fewer mean nothing without their scales."""


class Tensors:
    """What `model.safetensors` holds or, if there is none, the shards that its index names.

    Raises:
      FileNotFoundError: for a file that is not there.
      InteropError: for a file that is damaged, an index that does not fit its shards, or a
        tensor that is in two of them.
    """

    def __init__(self, directory: Path):
        whole, index = (directory / f"model.safetensors{end}" for end in ("", ".index.json"))
        self._opened: dict[Path, Any] = {}
        self._stored: dict[str, tuple[Path, str]] = {}
        """The file of each tensor, and its name there."""
        self._used: set[str] = set()
        if whole.exists():
            self.listing = whole
            self._add(whole)
        elif index.exists():
            self.listing = index
            self._add_shards(index)
        else:
            raise FileNotFoundError(
                f"{whole} is not there, nor is {index.name}: weights in another format, such as "
                "pytorch_model.bin, must be saved as safetensors first"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def names(self) -> list[str]:
        return list(self._stored)

    def rename(self, names: dict[str, str]) -> None:
        """Has the tensor `old` be known as `new`, for each item old: new."""
        self._stored = {names.get(name, name): at for name, at in self._stored.items()}

    def align(self, embedding: str, base: str) -> None:
        """Names the tensors as those of a model with a head, whose embedding is `embedding`, in
        the module `base`: without what stands before each name (``_orig_mod.``, ``module.``),
        and with `base` before those of a model without head.

        Raises:
          InteropError: if what stands before the embedding does not before every name.
        """
        last = embedding.removeprefix(base)
        found = [name for name in self._stored if f".{name}".endswith(f".{last}")]
        if embedding in found or len(found) != 1:
            return
        before = found[0].removesuffix(last)
        missing = base if not f".{before}".endswith(f".{base}") else ""
        before = before if missing else before.removesuffix(base)
        if other := [name for name in self._stored if not name.startswith(before)]:
            raise InteropError(
                f"{self.listing}: {found[0]!r} begins with {before!r} and {listed(other, 3)} not: "
                "save the model alone, by the names that transformers gives"
            )
        if before:
            log.warning("%s: read without %r, which every name begins with", self.listing, before)
        self.rename({name: missing + name.removeprefix(before) for name in self._stored})

    def check(self, name: str, shape: tuple[int, ...], hint: str = "") -> None:
        """Checks that a tensor is there and could be read, by the files' headers alone.

        Raises:
          InteropError: naming the file, the tensor and what is wrong; `hint` tells what to do
            where it is missing.
        """
        if name not in self._stored:
            raise InteropError(
                f"{self.listing}: has no tensor {name!r}{hint}; it has {listed(self._stored, 3)}"
            )
        file, stored = self._stored[name]
        header = self._opened[file].get_slice(stored)
        if tuple(header.get_shape()) != shape:
            raise InteropError(
                f"{file}: {stored!r} has the shape {tuple(header.get_shape())}; by config.json it "
                f"is {shape}"
            )
        if header.get_dtype() not in _READ:
            raise InteropError(
                f"{file}: {stored!r} is of dtype {header.get_dtype()}: only {', '.join(_READ)} can "
                "be read; save the model in one of them"
            )
        self._used.add(name)

    def read(self, name: str) -> np.ndarray:
        """A tensor, checked before, in float32.

        Raises:
          InteropError: if it cannot be read, or holds what is no number.
        """
        file, stored = self._stored[name]
        try:
            tensor = self._opened[file].get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise InteropError(f"{file}: {stored!r} cannot be read ({error})") from None
        with np.errstate(over="ignore"):
            tensor = np.asarray(tensor, np.float32)
        if not np.isfinite(tensor).all():
            raise InteropError(f"{file}: {stored!r} holds NaN or infinity: fetch it again")
        return tensor

    def check_none_left(self) -> None:
        """
        Raises:
          InteropError: for tensors of which none has asked.
        """
        if left := sorted(set(self._stored) - self._used):
            raise InteropError(
                f"{self.listing}: config.json tells nothing of the tensors {listed(left, 3)}"
            )

    def drop(self, name: str) -> None:
        del self._stored[name]

    def _add_shards(self, index: Path) -> None:
        shards = read_json(index).get("weight_map")
        if not (isinstance(shards, dict) and shards):
            raise InteropError(f"{index}: has no weight_map of tensors' files: fetch it again")
        for name, file in shards.items():
            if not (isinstance(file, str) and Path(file).name == file):
                raise InteropError(f"{index}: {name!r} is in no file of its directory: {file!r}")
        for file in sorted(set(shards.values())):
            self._add(index.parent / file)
        for name, file in shards.items():
            if self._stored.get(name, (None,))[0] != index.parent / file:
                raise InteropError(f"{index}: {name!r} is not in {file}: fetch both again")

    def _add(self, file: Path) -> None:
        if not file.exists():
            raise FileNotFoundError(f"{file} is not there: {self.listing.name} names it")
        try:
            opened = self._opened[file] = safe_open(file, framework="numpy")
        except (SafetensorError, OSError) as error:
            reason = f"{error}"[:100]
            raise InteropError(f"{file} is damaged ({reason}): fetch it again") from None
        for name in opened.keys():  # noqa: SIM118, it is no dict
            if name in self._stored:
                raise InteropError(
                    f"{self.listing}: {name!r} is in {self._stored[name][0].name} and in "
                    f"{file.name}: which is the model's is not known"
                )
            self._stored[name] = (file, name)
