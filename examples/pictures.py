"""The two pictures that tutorials draw: what bias correction corrects, and where decay takes a trajectory.

    python examples/pictures.py

prints

    wrote averages.png and trajectories.png to results/pictures
"""

from pathlib import Path

from optlab.lab import Study, figures, run

FOLDER = Path("results/pictures")


def main():
    sites = ("none", "gradient", "second_moment", "update")
    study = Study("beale", sites=sites, learning_rates=(0.03,), weight_decays=(0.3,), seeds=1)
    drawn = {
        "averages": figures.averages(figures.averages_data()),
        "trajectories": figures.trajectories(run(study), learning_rate=0.03, weight_decay=0.3),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=80)
    print(f"wrote {' and '.join(f'{name}.png' for name in drawn)} to {FOLDER}")


if __name__ == "__main__":
    main()
