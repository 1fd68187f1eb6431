"""Weights from and to Hugging Face's directories. JAX is imported with the weights alone, so that
config files may use `wsdjax.interop.foreign_config`."""

import importlib
from typing import TYPE_CHECKING, Any

from wsdjax.interop.foreign_config import InteropError

if TYPE_CHECKING:
    from wsdjax.interop.weights import check_weights, load_huggingface, save_huggingface

_WITH_JAX = ("check_weights", "load_huggingface", "save_huggingface")


def __getattr__(name: str) -> Any:
    if name in _WITH_JAX:
        return getattr(importlib.import_module("wsdjax.interop.weights"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
