"""A study of your own Flax module and arrays: where should the decay act for this regression?

    python examples/own_task.py

prints

    none      test loss 0.606  at rate 0.001
    gradient  test loss 0.551  at rate 0.001, decay 0.1
    update    test loss 0.562  at rate 0.001, decay 1
"""

import numpy as np
from flax import nnx
from sklearn.datasets import load_diabetes

from optlab.lab import Split, Study, run, supervised


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(10, 64, rngs=rngs)
        self.out = nnx.Linear(64, 1, rngs=rngs)

    def __call__(self, patients):
        return self.out(nnx.relu(self.hidden(patients)))[:, 0]


def main():
    patients, progression = load_diabetes(return_X_y=True)
    patients, progression = patients / patients.std(), (progression - progression.mean()) / progression.std()
    parts = np.split(np.random.default_rng(0).permutation(len(patients)), [200, 320])
    task = supervised(
        Network,
        Split(*((patients[part].astype("f4"), progression[part].astype("f4")) for part in parts)),
        name="diabetes",
        description="a year's progression of diabetes from ten measurements, 200 patients; a 10-64-1 network",
        steps=500,
        batch_size=20,
        loss=lambda predicted, target: ((predicted - target) ** 2).mean(),
        measures={},
        objective="validation_loss",
        reported="test_loss",
        maximize=False,
    )
    sites = ("none", "gradient", "update")
    study = Study(task=task, sites=sites, learning_rates=(1e-3, 1e-2), weight_decays=(0.01, 0.1, 1.0), seeds=5)
    means = run(study).squeeze().mean("seed")
    for site in sites:
        of_site = means.sel(site=site)
        best = of_site.isel(of_site.validation_loss.argmin(...))
        cell = f"rate {best.learning_rate:g}" + (f", decay {best.weight_decay:g}" if site != "none" else "")
        print(f"{site:8}  test loss {best.test_loss:.3f}  at {cell}")


if __name__ == "__main__":
    main()
