"""Weights from and to Hugging Face's format."""

from wsdjax.interop.foreign_config import InteropError
from wsdjax.interop.weights import (
    check_weights,
    load_huggingface,
    save_huggingface,
)
