"""Studies from TOML files, what is said about bad ones, and the command line around a run."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import tiny

import optlab
from optlab import cli, scale_by_rms, sgd
from optlab.lab import engine, report, results
from optlab.lab.errors import StudyError
from optlab.lab.progress import Progress
from optlab.lab.study import BUNDLED, Study, find, read
from optlab.lab.tasks import TASKS
from optlab.optimizers.cores import CORES

pytestmark = pytest.mark.xdist_group("study files")

ROOT = Path(__file__).parents[2]
FILES = [*sorted(BUNDLED.glob("*.toml")), *sorted((ROOT / "examples" / "studies").glob("*.toml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_studies_that_come_with_optlab_are_studies(path: Path) -> None:
    study = read(path)
    assert study.make_task().steps % study.make_task().every == 0
    assert study.runs() > 0


def test_the_study_decay_is_the_default() -> None:
    assert read(find("decay")) == Study(steps=1000)


def test_the_study_of_the_readme_is_a_study(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    path = tmp_path / "readme.toml"
    path.write_text(block)
    study = read(path)
    assert [str(structure) for structure in study.structures()] == ["none", "gradient", "update", "update constant"]


def test_a_file_says_what_the_dataclass_says(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(
        """
        task = "modular"
        sites = ["none", "update", "proximal"]
        couplings = ["natural", "corrected"]
        gates = ["none", "cautious"]
        target = "init"
        learning_rates = [1e-3, 1]
        weight_decays = [0, 1.0]
        seeds = 3
        steps = 40
        every = 20
        schedule = "cosine"
        measure_decay = true
        core = "amsgrad"
        b2 = 0.98
        memory = "500MB"
        """
    )
    study = read(path)
    assert study == Study(
        task="modular",
        sites=("none", "update", "proximal"),
        couplings=("natural", "corrected"),
        gates=("none", "cautious"),
        target="init",
        learning_rates=(1e-3, 1.0),
        weight_decays=(0.0, 1.0),
        seeds=3,
        steps=40,
        every=20,
        schedule="cosine",
        measure_decay=True,
        core="amsgrad",
        b2=0.98,
        memory="500MB",
    )
    assert len(study.structures()) == 1 + 2 * 4
    assert study.runs() == 3 * (2 + 8 * 4)
    assert study.memory_bytes() == 500_000_000
    assert study.core_text() == "amsgrad(b1=0.9, b2=0.98, eps=1e-08)"


@pytest.mark.parametrize("core", CORES)
def test_every_core_takes_the_decays_behind_it(core: str) -> None:
    b2 = 0.99 if core == "rmsprop" else None
    study = Study(core=core, b2=b2, sites=("none", "loss", "gradient", "update", "step", "after", "proximal"))
    assert study.refused() == {}


@pytest.mark.parametrize(("core", "forks"), [("sgd", False), ("lion", False), ("adam", True), ("adamax", True)])
def test_what_is_left_out_depends_on_the_core(core: str, forks: bool) -> None:
    """The sites inside of a quotient want one, and the gate `stable` wants its denominator to be a root."""
    study = Study(core=core, sites=("none", "first_moment", "direction", "update"), gates=("none", "stable"))
    inside = [str(structure) for structure in study.structures()]
    trained = ["none", *(("first_moment", "direction") if forks else ()), "update"]
    assert inside == [*trained, *(["update stable"] if core == "adam" else [])]
    for structure, reason in study.refused().items():
        said = (
            "no gate 'stable' at the site" if structure.gate == "stable" and structure.site != "update" else "needs a"
        )
        assert said in reason


def test_a_core_may_be_a_transform() -> None:
    core = scale_by_rms(0.9, 1e-8)
    study = Study(core=core)
    assert study.make_core() is core
    assert study.core_text() == str(core)


def test_a_core_may_be_one_of_optax() -> None:
    study = Study(core=optax.scale_by_adam(), sites=("none", "gradient", "direction", "update"))
    assert study.core_text() == "chain(<optax scale_by_adam>)"
    assert [str(structure) for structure in study.structures()] == ["none", "gradient", "update"]
    tx = optlab.Decay("update").apply_to(study.make_core(), 0.1, 0.5)
    params = np.ones(3, np.float32)
    with jax.numpy_dtype_promotion("standard"):  # optax is not written for the strict one
        updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(np.asarray(updates), -0.1 * (1 + 0.5), rtol=1e-5)


def test_hyperparameters_are_written_down_to_the_last_bit() -> None:
    assert Study(b2=0.9999991).core_text() == "adam(b1=0.9, b2=0.9999991, eps=1e-08)"
    rounded = np.float32(0.99)
    assert Study(b2=rounded).core_text() == f"adam(b1=0.9, b2={float(rounded)!r}, eps=1e-08)"  # pyright: ignore


def test_axes_may_be_arrays_and_ranges_and_numbers_those_of_numpy() -> None:
    study = Study(
        learning_rates=np.array([0.5, 0.25], np.float32),  # pyright: ignore
        weight_decays=range(3),  # pyright: ignore
        seeds=np.int64(2),  # pyright: ignore
        sites=["none"],  # pyright: ignore
    )
    assert study == Study(learning_rates=(0.5, 0.25), weight_decays=(0.0, 1.0, 2.0), seeds=2, sites=("none",))
    assert {type(value) for value in (study.seeds, *study.weight_decays)} == {int, float}


def test_a_file_may_begin_with_a_byte_order_mark_and_be_named_by_text(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbfseeds = 3")
    assert read(str(path)) == read(find(str(path))) == Study(seeds=3)


BAD = {
    "not TOML": ("seeds = = 2", "is not TOML: Invalid value (at line 1, column 9)"),
    "an unknown key": (
        "site = ['update']",
        "unknown key 'site'; known are task, sites, couplings, gates, target, learn",
    ),
    "an unknown task": ("task = 'imagenet'", "unknown task 'imagenet'; known are digits, "),
    "a task that is a number": ("task = 1", "unknown task 1; known are digits, "),
    "an unknown site": ("sites = ['elsewhere']", "unknown site 'elsewhere'; known are none, loss, gradient"),
    "an unknown coupling": ("couplings = ['loose']", "unknown coupling 'loose'; known are natural, lr, schedule"),
    "an unknown gate": ("gates = ['open']", "unknown gate 'open'; known are none, cautious, stable"),
    "an unknown target": ("target = 'mean'", "unknown target 'mean'; known are zero, init"),
    "an unknown schedule": (
        "schedule = 'step'",
        "unknown schedule 'step'; known are constant, linear, cosine, warmup_cosine",
    ),
    "neither true nor false": ("measure_decay = 1", "measure_decay must be true or false, got 1"),
    "an unknown core": ("core = 'adamw'", "unknown core 'adamw'; known are adam, amsgrad, laprop, lion, momentum"),
    "a core that is a number": ("core = 3", "the core is 3 (int), not a transform"),
    "a core without a default": ("core = 'rmsprop'", "the core rmsprop needs b2: it has no default, because libraries"),
    "a hyperparameter that overflows": (f"eps = 1{'0' * 400}", "the core adam: eps must be finite and >= 0, got inf"),
    "a hyperparameter of another core": ("core = 'momentum'\nb2 = 0.9", "the core momentum has no b2; it takes b1"),
    "a hyperparameter out of range": ("b2 = 1.5", "the core adam: b2 must be in [0, 1), got 1.5"),
    "a hyperparameter that is text": ("eps = 'small'", "the core adam: eps must be finite and >= 0, got 'small' (str)"),
    "no list": ("sites = 'update'", "sites must be a list, got 'update'"),
    "an empty list": ("gates = []", "a study needs at least one of gates"),
    "a value twice": ("learning_rates = [1, 1.0]", "learning_rates holds a value twice: [1, 1.0]"),
    "a rate that is text": ("learning_rates = ['1e-3']", "learning_rates must be finite and >= 0, got '1e-3'"),
    "seeds that are text": ("seeds = '3'", "seeds must be a whole number from 1, got '3'"),
    "a rate that overflows": (
        "learning_rates = [1e39]",
        "learning_rates must be 0 or from 1.2e-38 to 3.4e+38, as float32 holds them, got 1e+39",
    ),
    "a rate that underflows": ("learning_rates = [0.1, 1e-46]", "learning_rates must be 0 or from 1.2e-38 to 3.4e+38"),
    "a decay that XLA flushes to zero": ("weight_decays = [1e-40]", "weight_decays must be 0 or from 1.2e-38 to 3.4e"),
    "a whole number that no float holds": (f"weight_decays = [1{'0' * 400}]", "weight_decays must be 0 or from 1.2e-"),
    "decays that float32 can't tell apart": (
        "weight_decays = [0.1, 0.100000001]",
        "weight_decays holds a value twice, in float32: 0.1 and 0.100000001",
    ),
    "too many seeds": (
        "seeds = 99999999999999999999",
        "seeds must be at most 2147483647, got 99999999999999999999",
    ),
    "too many steps": ("steps = 2147483648", "steps must be at most 2147483647, got 2147483648"),
    "another name for a key": ("lr = 0.1", "unknown key 'lr'; known are task, sites, "),
    "a table": ("[task]\nname = 'digits'", "unknown task {'name': 'digits'}; known are digits, "),
    "a rate that is a truth": ("learning_rates = [true]", "learning_rates must be finite and >= 0, got True"),
    "an infinite decay": ("weight_decays = [inf]", "weight_decays must be finite and >= 0, got inf"),
    "half a seed": ("seeds = 2.5", "seeds must be a whole number from 1, got 2.5"),
    "no steps": ("steps = 0", "steps must be a whole number from 1, got 0"),
    "memory without a size": ("memory = 'much'", "memory must be a size such as 2GiB or 500MB, got 'much'"),
    "memory beyond any": (f"memory = '1{'0' * 400}TB'", "memory must be a size such as 2GiB or 500MB, got '1000"),
    "no memory": ("memory = 0", "memory must be a size such as 2GiB or 500MB, got 0"),
    "memory in an unknown unit": ("memory = '2KB'", "memory must be a size such as 2GiB or 500MB, got '2KB'"),
    "nothing with a meaning": (
        "sites = ['gradient']\ngates = ['stable']",
        "Decay: no gate 'stable' at the site 'gradient': ",
    ),
    "a core without a fork": (
        "sites = ['first_moment']\ncore = 'sgd'",
        "Decay.apply_to: the site 'first_moment' needs a core with one quotient",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_with_its_name(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BAD[case]
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert cli.main(["study", str(path), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    between = " " if case == "not TOML" else ": "
    assert printed.err.startswith(f"optlab study: {path}{between}{message}")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


BAD_CALLS = {
    "no such file": (["study", "{tmp}/no.toml"], "no.toml can't be read: No such file or directory"),
    "bytes": (["study", "{tmp}/bytes.toml"], "bytes.toml is not TOML: 'utf-8' codec can't decode byte 0xff"),
    "a flag against the file": (["study", "{tmp}/good.toml", "--sites", "nowhere"], "unknown site 'nowhere'"),
    "every that does not divide": (["study", "{tmp}/every.toml"], "every must divide steps"),
    "one of three flags": (
        ["study", "{tmp}/good.toml", "--processes", "2"],
        "--coordinator, --processes and --process belong together",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.toml").write_text("steps = 10")
    (tmp_path / "every.toml").write_text("steps = 10\nevery = 3")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    arguments, message = BAD_CALLS[case]
    whole = [argument.format(tmp=tmp_path) for argument in arguments]
    assert cli.main([*whole, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


ELSEWHERE = {
    "lr = 0.1": "; lr is learning_rates\n",
    "betas = [0.9, 0.98]": "; betas is b1 and b2\n",
    "core = 'nadamw'": ", signum; nadamw is the core nadam with the site update\n",
    "core = 'adamw'": ", signum; adamw is the core adam with the site update\n",
}


@pytest.mark.parametrize("text", ELSEWHERE)
def test_what_has_another_name_elsewhere_is_told_its_own(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert cli.main(["study", str(tmp_path / "bad.toml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith(ELSEWHERE[text])


BAD_STUDIES = {
    "a function for a core": (lambda: Study(core=optax.scale_by_adam), "the core is the function scale_by_adam, not a"),  # pyright: ignore
    "a function for a task": (lambda: Study(task=TASKS["digits"]), "the task is the function digits: call it"),  # pyright: ignore
    "a core that descends": (lambda: Study(core=sgd(0.1)), "two minus signs climb"),
    "text for a rate": (lambda: Study(learning_rates=("1e-2",)), "learning_rates must be finite and >= 0, got '1e-2'"),  # pyright: ignore
    "a transform and b1": (lambda: Study(core=sgd(0.1), b1=0.9), "b1 belong to a core that is given by name"),
    "steps of a task": (lambda: Study(task=tiny.tiny(), steps=5), "steps belong to the task tiny: leave them out"),
    "seeds that are None": (lambda: Study(seeds=None), "seeds must be a whole number from 1, got None"),  # pyright: ignore
}


@pytest.mark.parametrize("case", BAD_STUDIES)
def test_a_bad_study_says_so(case: str) -> None:
    make, message = BAD_STUDIES[case]
    with pytest.raises(StudyError) as error:
        make()
    assert message in str(error.value)


# A run from the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of the tiny task, in four chunks of one device."""
    monkeypatch.setitem(TASKS, "tiny", tiny.tiny)
    tiny.use(1, 2, monkeypatch.setattr)
    path = tmp_path / "small.toml"
    path.write_text(
        'task = "tiny"\nsites = ["gradient", "update"]\ngates = ["cautious", "none"]\n'
        "learning_rates = [0.3, 30.0]\nweight_decays = [0.1]\nseeds = 2\n"
    )
    return path


def test_a_study_that_was_stopped_goes_on_and_tells_machines(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def stop(progress: Progress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(read(file), out, stop)
    assert cli.main(["study", str(file), "--output", str(out), "--seeds", "3"]) == 2
    assert "another definition (seeds: 2 -> 3); give --overwrite" in capsys.readouterr().err

    assert cli.main(["study", str(file), "--output", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"optlab study: continues in {out}, where 4 of 12 runs are finished\n"
    events = [json.loads(line) for line in printed.out.splitlines()]
    assert [event["event"] for event in events[:2]] == ["start", "progress"]
    assert list(events[0]["left_out"]) == ["gradient cautious"]
    assert (events[1]["resumed"], events[1]["total"], events[1]["seconds_left"]) == (4, 12, None)
    assert events[-1]["event"] == "done"
    assert events[-1]["files"] == [
        name for name in report.file_names() if name.startswith(("results", "maps", "curves", "equal_norm", "report"))
    ]
    assert [cell["structure"] for cell in events[-1]["best"]] == ["gradient", "update cautious", "update"]
    data = results.load(out / "results.nc")
    assert data.attrs["command"] == f"optlab study {file} --output {out} --json"
    assert sorted(path.name for path in out.iterdir()) == sorted(events[-1]["files"])

    assert cli.main(["study", str(file), "--output", str(out)]) == 2
    assert "already holds results.nc; give --overwrite" in capsys.readouterr().err


def test_people_hear_what_is_left_out_and_nothing_else_but_the_results(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", str(file), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "optlab study: left out: gradient cautious (Decay: no gate 'cautious' at the site 'gr"
    )
    assert printed.err.count("\n") == 1
    assert "Best cell of every structure, 2 seeds" in printed.out
    assert "test loss" in printed.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "update cautious" in page
    assert "adam(b1=0.9, b2=0.999, eps=1e-08)" in page
