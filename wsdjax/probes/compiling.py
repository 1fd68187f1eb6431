"""`jax.jit` for the functions of probes that the host calls, with what their compilation needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, update_wrapper
from typing import Any

import jax

# At full precision the autotuner tries Triton's kernels for minutes and takes few of them: on an
# H200 a CNN's product compiled in 25 s with them and in 2.3 s without, and ran as fast.
NVIDIA = {"xla_gpu_enable_triton_gemm": False}


class Program:
    """A function, compiled as `jax.jit` would for the default device as it is when it is called.

    Inside of another function that is traced it is that function's part, whose options hold.
    """

    def __init__(self, function: Callable, **options: Any):
        self._function, self._options = function, options
        self._compiled = cache(self._jitted)  # by device: one may be the default later
        self.__name__ = function.__name__
        update_wrapper(self, function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, named))):
            return self._function(*arguments, **named)
        return self._compiled(_is_nvidia())(*arguments, **named)

    def trace(self, *arguments: Any, **named: Any) -> Any:
        """As that of a jitted function; a later call does not trace again."""
        return self._compiled(_is_nvidia()).trace(*arguments, **named)

    def lower(self, *arguments: Any, **named: Any) -> Any:
        """As that of a jitted function; a later call does not compile again what was compiled."""
        return self._compiled(_is_nvidia()).lower(*arguments, **named)

    def _jitted(self, nvidia: bool) -> Any:
        return jax.jit(self._function, **self._options, compiler_options=NVIDIA if nvidia else None)


def compiled(**options: Any) -> Callable[[Callable], Program]:
    """A decorator; the options are those of `jax.jit`."""
    return partial(Program, **options)


def _is_nvidia() -> bool:
    default: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    device = default if isinstance(default, jax.Device) else jax.devices(default)[0]
    # Of AMD's GPUs the name of the architecture stands there.
    capability = str(getattr(device, "compute_capability", ""))
    return device.platform in ("gpu", "cuda") and capability.replace(".", "", 1).isdecimal()
