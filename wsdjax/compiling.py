"""`jax.jit` with what a device's compiler has to be told."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, update_wrapper
from typing import Any

import jax

Options = dict[str, Any] | None
"""Options of a compiler; None for its defaults."""


class Program:
    """A function, compiled as `jax.jit` would for the default device as it is when it is called, or
    for the one that is named, with the options of ``told(device)``.

    Inside of another function that is traced it is that function's part, whose options hold.
    """

    def __init__(
        self,
        function: Callable,
        told: Callable[[jax.Device], Options],
        device: jax.Device | None = None,
        **options: Any,
    ):
        self._told, self._device = told, device
        # By the compiler's options: another device may be the default later.
        self._jitted = cache(
            lambda *told: jax.jit(function, **options, compiler_options=dict(told) or None)
        )
        self.__name__ = function.__name__
        update_wrapper(self, function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, named))):
            return self._jitted()(*arguments, **named)
        return self._here()(*arguments, **named)

    def trace(self, *arguments: Any, **named: Any) -> Any:
        """As that of a jitted function; a later call does not trace again."""
        return self._here().trace(*arguments, **named)

    def lower(self, *arguments: Any, **named: Any) -> Any:
        """As that of a jitted function; a later call does not compile again what was compiled."""
        return self._here().lower(*arguments, **named)

    def _here(self) -> Any:
        device = self._device or _default_device()
        return self._jitted(*(self._told(device) or {}).items())


def compiled(**options: Any) -> Callable[[Callable], Program]:
    """A decorator for the functions of probes that the host calls; the options are those of
    `jax.jit`."""
    return partial(Program, told=_of_probes, **options)


def of_convolutions(device: jax.Device) -> Options:
    """For convolutions on CPUs: XLA's own code. To the library YNNPACK, which jax 0.10 brings and
    which has them by default, those of the CNN took as long or up to twice as long on two cores
    with AVX-512. Probes, which know no model, have it for all: products of the benchmark's language
    model took 0 to 4% longer there."""
    plain = {"xla_cpu_experimental_ynn_fusion_type": ""}
    return plain if device.platform == "cpu" and _is_known(*plain.items()) else None


def for_once(device: jax.Device) -> Options:
    """For random numbers of a model's shapes, which run seldom: on a CPU LLVM takes seconds for
    them with all its optimisations, and they are as fast without, with the same bits."""
    return {"xla_backend_optimization_level": 1} if device.platform == "cpu" else None


@cache
def _is_known(*options: tuple[str, Any]) -> bool:
    """Whether this version of the compiler has the options."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _of_probes(device: jax.Device) -> Options:
    # At full precision the autotuner tries Triton's kernels for minutes and takes few of them: on
    # an H200 a CNN's product compiled in 25 s with them and in 2.3 s without, and ran as fast.
    return {"xla_gpu_enable_triton_gemm": False} if _is_nvidia(device) else of_convolutions(device)


def _default_device() -> jax.Device:
    default: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    return default if isinstance(default, jax.Device) else jax.devices(default)[0]


def _is_nvidia(device: jax.Device) -> bool:
    # Of AMD's GPUs the name of the architecture stands there.
    capability = str(getattr(device, "compute_capability", ""))
    return device.platform in ("gpu", "cuda") and capability.replace(".", "", 1).isdecimal()
