"""Makes `torch.npz`: float64 trajectories of `torch.optim`, one for every run in `tests/torch_cases.py`.

    cd tests && python -m golden.make_torch

The file holds `start` (weights), `grads` (steps by weights), the weights after each step under the name of the run, and
`about`, a JSON text: torch's version, and class and arguments of every run.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch_cases import RUNS, STEPS

FILE = Path(__file__).with_name("torch.npz")

# Sizes of the parameters, the weights that they begin with, and how large the gradients of every weight are. The first
# weight never has a gradient, the third sometimes, the last has none until step 11; the huge, the tiny and the one as
# small as eps are weights of their own, so that each is compared at its own scale.
SIZES = (1, 3, 5)
START = np.array([0.5, -2.0, 1.0, 0.25, -0.75, 0.0, 1.5, 0.0, -1.0])
GRADIENT_SIZE = np.array([0.0, 1.0, 1.0, 1e-2, 1e2, 1e-20, 1e15, 1e-8, 1.0])


def gradients() -> np.ndarray:
    """Steps by weights."""
    rng = np.random.default_rng(0)
    grads = GRADIENT_SIZE * rng.normal(size=(STEPS, START.size))
    grads[rng.random(STEPS) < 0.4, 2] = 0
    grads[:10, 8] = 0
    return grads


def trajectory(name: str, kwargs: dict[str, Any], start: np.ndarray, grads: np.ndarray) -> np.ndarray:
    """The weights after each step of `torch.optim.<name>`, steps by weights.

    The default dtype is float64 meanwhile: NAdam keeps the product of its coefficients in it, whatever the weights are.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        cuts = np.cumsum(SIZES)[:-1]
        params = [torch.tensor(piece, requires_grad=True) for piece in np.split(start, cuts)]
        optimizer = getattr(torch.optim, name)(params, **kwargs)
        weights = []
        for row in grads:
            for param, piece in zip(params, np.split(row, cuts), strict=True):
                param.grad = torch.tensor(piece)
            optimizer.step()
            weights.append(np.concatenate([param.detach().numpy().copy() for param in params]))
        return np.stack(weights)
    finally:
        torch.set_default_dtype(before)


def settings() -> dict[str, dict[str, Any]]:
    """Class and arguments of every run, as JSON has them."""
    return json.loads(json.dumps({name: {"class": run.torch, **run.kwargs} for name, run in RUNS.items()}))


def make() -> dict[str, np.ndarray]:
    """What the file holds, made anew."""
    import torch

    about = json.dumps({"torch": torch.__version__.split("+")[0], "runs": settings()}, indent=1)
    grads = gradients()
    trajectories = {name: trajectory(run.torch, run.kwargs, START, grads) for name, run in RUNS.items()}
    return {"about": np.array(about), "start": START, "grads": grads} | trajectories


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(f"{FILE.name}: {len(RUNS)} runs, {FILE.stat().st_size // 1000} kB")
