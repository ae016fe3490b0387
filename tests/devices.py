"""The devices that tests run on, and what they allow them. Imported before JAX, which it sets up."""

import itertools
import os
import re
import sys

# `pytest -m device` runs on whatever there is; all other tests on a CPU that stands for eight devices.
_MARKS = " ".join(marks for option, marks in itertools.pairwise(sys.argv) if option == "-m")
ON_ANY_DEVICE = re.search(r"(?<!not )\bdevice\b", _MARKS) is not None
if not ON_ANY_DEVICE:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a hundred times as long where workers share a core

import jax  # noqa: E402
import pytest  # noqa: E402

ON_CPU = jax.default_backend() == "cpu"

# Sums of a few products, taken in whatever order. An accelerator takes them in blocks, and its own way for each shape
# of a product; what an optimizer divides by the root of their squares is as uncertain where they nearly cancel.
IN_ANOTHER_ORDER = {"rtol": 2e-5, "atol": 1e-6} if ON_CPU else {"rtol": 2e-4, "atol": 1e-5}


def _known(options: dict[str, bool]) -> dict[str, bool]:
    """The options of XLA, as far as this one has them."""
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except (RuntimeError, ValueError):
        return {}
    return options


# For programs that are compiled for the numbers they give, and run once: XLA's loops without its own code generator of
# fused ones, which takes as long to compile as all else.
QUICK_TO_COMPILE = _known({"xla_cpu_use_fusion_emitters": False}) if ON_CPU else {}

needs_two = pytest.mark.skipif(jax.device_count() < 2, reason="needs a second device")
needs_double = pytest.mark.skipif(jax.default_backend() == "tpu", reason="a TPU has no float64")
