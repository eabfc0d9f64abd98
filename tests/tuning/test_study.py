"""A study: what is varied, what comes of it, and what it decides."""

import json
import math
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT

from hfdiff.cli import run_command
from hfdiff.core.errors import BadInput
from hfdiff.core.threads import cores
from hfdiff.training.checkpoint import list_checkpoints
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import BASE, StudyConfig, read_study, rungs
from hfdiff.tuning.study.judging import StudyJudge, open_judge
from hfdiff.tuning.study.results import estimate, recommended, rows_of, undecided
from hfdiff.tuning.study.run import outcomes, shares_of_cores, survivors
from hfdiff.tuning.study.trial import Outcome, Trainings, outcome_of, trial_of

STUDIES = sorted((ROOT / "train_scripts" / "studies").glob("*.yaml"))
RATES = {"learning_rate": [1e-3, 2e-3, 4e-3]}
SHAPES = {"shape": {"wide": {"block_out_channels": [16, 32]}, "flat": {"norm_num_groups": 2}}}
SMALL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "patch_size": 4,
    "batch_size": 8,
    "mixed_precision": "no",
}


@pytest.fixture
def study_of(tmp_path):
    """A study of these keys, read from a file."""

    def make(**keys):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({"base": SMALL, "images": 16, "factors": RATES, **keys}, sort_keys=False))
        return read_study(file, tmp_path / "out")

    return make


def test_each_option_alone_or_all_together(study_of):
    alone = study_of(factors=RATES | SHAPES)
    names = [variant.name for variant in alone.variants]  # 1e-3 is the base's
    assert names == [BASE, "learning_rate=0.002", "learning_rate=0.004", "shape=wide", "shape=flat"]
    together = study_of(factors=RATES | SHAPES, design="crossed")
    assert len(together.variants) == 1 + 3 * 2
    assert together.variants[-1].changes == {"learning_rate": 4e-3, "norm_num_groups": 2}
    assert together.training(together.variants[-1]).learning_rate == 4e-3


def test_a_base_may_be_a_file_beside_the_study(study_of, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**SMALL, "batch_size": 4, "output_dir": "elsewhere"}))
    study = study_of(config="base.yaml", base={"dropout": 0.1})
    assert (study.training(study.variants[0]).batch_size, study.training(study.variants[0]).dropout) == (4, 0.1)


@pytest.mark.parametrize(
    ("budget", "key"), [("images", "max_train_images"), ("cpu_minutes", "max_cpu_minutes"), ("minutes", "max_minutes")]
)
def test_every_run_has_the_budget(study_of, budget, key):
    study = study_of(**{"images": None, budget: 8})
    for variant in study.variants:
        assert getattr(study.training(variant), key) == 8
        assert getattr(study.training(variant, share=0.25), key) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"factors": {}}, "has no factors"),
        ({"factors": {"learning_rate": []}}, r"factor 'learning_rate' is \[\]; valid: a list of values"),
        ({"factors": {"learning_rat": [1]}}, "unknown key of training .*'learning_rat' .did you mean 'learning_rate'"),
        ({"factors": {"a": {"b": {"widths": [8]}}}}, "unknown key of training in option 'b' of factor 'a' 'widths'"),
        ({"factors": {"shape": {"wide": {}}}}, "option 'wide' of factor 'shape' is {}; valid: keys"),
        ({"factors": {"learning_rate": [2e-3, 2e-3]}}, "two options of factor 'learning_rate' have one name"),
        ({"factors": {"learning_rate": ["fast"]}}, "learning_rate in variant 'learning_rate=fast' is 'fast'"),
        ({"factors": {"norm_num_groups": [3]}}, "variant 'norm_num_groups=3': width 8 .* norm_num_groups 3"),
        ({"factors": {"seed": [1, 2]}}, "factor 'seed', a list, sets seed, which a study sets itself"),
        ({"factors": {"dataset": ["cifar10"]}}, "sets dataset; all runs of a study are judged by the same images"),
        ({"base": {"output_dir": "here"}}, "base sets output_dir, which a study sets itself"),
        ({"images": None}, "a study's budget is not given; valid: one of images, cpu_minutes, minutes"),
        ({"minutes": 1}, "a study's budget is images, minutes; valid: one of"),
        ({"images": 0}, "images is 0; valid: 1"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]; valid: at least one, each once"),
        ({"guidance_scale": []}, r"guidance_scale is \[\]"),
        ({"halving": 1}, "halving is 1; valid: 2"),
        ({"at_once": 0}, "at_once is 0; valid: 1 to"),
        ({"at_once": 999}, "at_once is 999; valid: 1 to .* the cores that there are"),
        ({"factors": {"learning_rate": [1e-3]}}, "every option of the factors is what the base has"),
        ({"factors": {"a b": {"c": {"dropout": 0.1}}, "a  b": {"c": {"dropout": 0.2}}}}, "two factors have one name"),
        (
            {"images": None, "minutes": 1, "factors": {"lr_schedule": ["cosine"]}},
            "variant 'lr_schedule=cosine': lr_schedule cosine goes by images",
        ),
        (
            {"images": None, "minutes": 1, "base": {**SMALL, "lr_schedule": "step"}},
            "variant 'base': lr_schedule step goes by images",
        ),
        (
            {"factors": {"a": {"b=c": {"dropout": 0.1}}, "a=b": {"c": {"dropout": 0.2}}}},
            "two variants are called 'a=b=c'",
        ),
        ({"factors": {"x": {"y" * 101: {"dropout": 0.1}}}}, "a name has 101 characters"),
        ({"sedes": [0]}, "unknown key in .*'sedes' .did you mean 'seeds'"),
        ({"factors": [1]}, r"factors in .* is \[1\]; valid: keys with values"),
        (
            {"factors": {"a": {"x": {"dropout": 0.1}}, "b": {"y": {"dropout": 0.2}}}, "design": "crossed"},
            "factor 'b' sets dropout, which another factor of it sets",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused(study_of, keys, message):
    with pytest.raises(BadInput, match=message):
        study_of(**keys)


def test_halving_gives_each_rung_the_same():
    assert rungs(StudyConfig(halving=3), 9) == [(1 / 9, 9), (1 / 3, 3), (1, 1)]
    assert rungs(StudyConfig(halving=2), 5) == [(1 / 8, 5), (1 / 4, 3), (1 / 2, 2), (1, 1)]
    assert rungs(StudyConfig(), 9) == [(1, 9)]


@pytest.mark.parametrize(("values", "half"), [([1.0, 2.0, 3.0], 4.303 / 3**0.5), ([5.0], None)])
def test_an_interval_over_seeds_is_students(values, half):
    assert estimate(values).half == (None if half is None else pytest.approx(half))


def outcome(study, number: int, seed: int, distance: float, recall: float = 0.5, failure: str = "") -> Outcome:
    trial = trial_of(study, study.variants[number], seed, 1.0)
    measured = {1.0: {DISTANCE: distance, "recall": recall}, 2.0: {DISTANCE: 2 * distance, "recall": recall}}
    return Outcome(trial, {} if failure else measured, 16, 1.0, failure)


def test_what_a_study_decides(study_of):
    """Seeds differ by a factor of two; ratios within a seed by less."""
    study = study_of(seeds=[0, 1, 2, 3], factors={"learning_rate": [2e-3, 3e-3, 4e-3, 5e-3], "dropout": [0.1]})
    of_seed = [1.0, 2.0, 1.4, 0.8]
    ratios = [[1, 1, 1, 1], [0.5, 0.52, 0.48, 0.5], [0.9, 1.1, 1.2, 0.8], [1.5, 1.6, 1.4, 1.5], [0.4, 0.4, 0.41, 0.4]]
    found = {
        study.variants[i].name: [
            outcome(study, i, s, 10 * of_seed[s] * row[s], recall=0.2 if i == 4 else 0.5) for s in range(4)
        ]
        for i, row in enumerate(ratios)
    }
    found["dropout=0.1"] = [outcome(study, 5, s, math.inf, failure="it burst") for s in range(4)]
    rows = {row.variant.name: row for row in rows_of(study, {1.0: found})}
    assert next(iter(rows)) == BASE
    assert {name: row.verdict for name, row in rows.items()} == {
        BASE: "base",
        "learning_rate=0.002": "better",
        "learning_rate=0.003": "undecided",
        "learning_rate=0.004": "worse",
        "learning_rate=0.005": "nearer, less various",
        "dropout=0.1": "failed",
    }
    assert math.exp(rows["learning_rate=0.002"].ratio.mean) == pytest.approx(0.5, rel=0.01)
    assert rows["learning_rate=0.002"].guidance_scale == 1
    config, chosen = recommended(study, list(rows.values()))
    assert config == study.training(study.variants[1])
    assert [row.variant.name for row in chosen] == ["learning_rate=0.002"]
    open_questions = ["learning_rate=0.005", "learning_rate=0.003", "dropout=0.1"]
    assert [line.split(":")[0] for line in undecided(list(rows.values()))] == open_questions
    assert [v.name for v in survivors(study.variants, found, 2)] == [BASE, "learning_rate=0.005", "learning_rate=0.002"]


def test_one_seed_decides_nothing(study_of):
    study = study_of(seeds=[0])
    found = {variant.name: [outcome(study, i, 0, 10.0 / (i + 1))] for i, variant in enumerate(study.variants)}
    rows = rows_of(study, {1.0: found})
    assert {row.verdict for row in rows[1:]} == {"undecided"}
    assert recommended(study, rows) == (study.training(study.variants[0]), [])
    assert all("one seed tells nothing of chance" in line for line in undecided(rows))


def verdicts(study, distances: list[list[float]], failed: int = 0) -> dict[str, str]:
    """Variant -> verdict, of distances by variant and seed; of the last variant so many runs more failed."""
    found = {
        variant.name: [outcome(study, i, s, d) for s, d in enumerate(distances[i])]
        for i, variant in enumerate(study.variants)
    }
    last = study.variants[-1].name
    found[last] += [outcome(study, len(distances) - 1, 90 + i, 0, failure="it burst") for i in range(failed)]
    return {row.variant.name: row.verdict for row in rows_of(study, {1.0: found})}


def test_a_variant_that_fails_at_times_is_not_recommended(study_of):
    study = study_of(factors={"dropout": [0.1]})
    assert verdicts(study, [[10, 11, 10], [5, 5.5, 5]])["dropout=0.1"] == "better"
    assert verdicts(study, [[10, 11, 10], [5, 5.5, 5]], failed=1)["dropout=0.1"] == "nearer, but runs failed"


def test_where_the_base_fails_nothing_is_decided(study_of):
    study = study_of(factors={"dropout": [0.1]})
    assert verdicts(study, [[], [5, 5.5, 5]]) == {BASE: "not run", "dropout=0.1": "undecided"}


def test_an_interrupted_study_shows_the_last_that_was_measured_of_each(study_of):
    study = study_of(factors={"dropout": [0.1, 0.2, 0.3]})
    names = [variant.name for variant in study.variants]
    first = {name: [outcome(study, i, 0, 5.0)] for i, name in enumerate(names[:3])} | {names[3]: []}
    begun = {names[0]: [], names[1]: [outcome(study, 1, 0, 4.0)]}
    rows = {row.variant.name: row for row in rows_of(study, {0.5: first, 1.0: begun})}
    assert list(rows) == [BASE, names[1], names[2]]
    assert [(row.share, row.values[DISTANCE].mean) for row in rows.values()] == [(0.5, 5.0), (1.0, 4.0), (0.5, 5.0)]


def test_options_that_set_one_key_are_not_recommended_together(study_of):
    factors = {
        "a": {"x": {"dropout": 0.1, "batch_size": 4}},
        "b": {"y": {"dropout": 0.2}},
        "c": {"z": {"augment": 0.1}},
    }
    study = study_of(factors=factors)
    distances = [[10, 11, 10], [6, 6.6, 6.1], [5, 5.5, 5.1], [7, 7.7, 7.1]]
    found = {
        v.name: [outcome(study, i, s, d) for s, d in enumerate(distances[i])] for i, v in enumerate(study.variants)
    }
    config, chosen = recommended(study, rows_of(study, {1.0: found}))
    assert [row.variant.name for row in chosen] == ["b=y", "c=z"]
    assert (config.dropout, config.batch_size, config.augment) == (0.2, 8, 0.1)


@pytest.mark.parametrize(
    ("numbers", "at_once", "shares"), [([0, 1, 2], 2, [[0], [1]]), ([4, 6, 7, 9], 2, [[4, 6], [7, 9]]), ([3], 1, [[3]])]
)
def test_each_run_has_as_many_cores_as_the_others(numbers, at_once, shares):
    assert shares_of_cores(numbers, at_once) == shares


def test_a_run_of_other_images_is_not_judged(tmp_path):
    (tmp_path / "training.json").write_text('{"data": {"fingerprint": "a"}}')
    judge = StudyJudge(SimpleNamespace(copied=SimpleNamespace(fingerprint="b")), StudyConfig())
    with pytest.raises(BadInput, match="was trained on images with fingerprint a, those of today have b"):
        judge.check_data(tmp_path)


def test_all_combinations_are_counted_before_they_are_made(study_of):
    many = {key: [i / 20 for i in range(1, 18)] for key in ("dropout", "augment", "drop_both")}
    with pytest.raises(BadInput, match=r"all combinations are 4,913 variants; valid: at most 1,000"):
        study_of(design="crossed", factors=many)


@pytest.mark.parametrize("record", [{"images": None, "cpu_seconds": 1.0}, {"images": 16, "cpu_seconds": math.nan}])
def test_a_damaged_record_is_the_failure_of_its_run(study_of, record):
    study = study_of()
    trial = trial_of(study, study.variants[0], 0, 1.0)
    trial.folder.mkdir(parents=True)
    (trial.folder / "judged.json").write_text("{}")
    (trial.folder / "training.json").write_text(json.dumps(record))
    found = outcome_of(trial, Trainings(), lambda folder, check: {1.0: {DISTANCE: 3.0}})
    assert "holds values that are no numbers" in found.failure


def test_what_a_judge_cannot_do_is_the_outcome_of_one_run(study_of, tmp_path):
    study = study_of(seeds=[0])
    trials = [trial_of(study, variant, 0, 1.0) for variant in study.variants[:2]]
    for trial in trials:
        trial.folder.mkdir(parents=True)
        (trial.folder / "judged.json").write_text("{}")
        (trial.folder / "training.json").write_text('{"images": 16, "cpu_seconds": 1.0}')

    def judge(folder: str, check) -> dict:
        if folder == str(trials[0].folder):
            raise RuntimeError("out of memory")
        return {1.0: {DISTANCE: 3.0}}

    found = {outcome.trial.variant: outcome for outcome in outcomes(trials, judge, at_once=1)}
    assert found[BASE].failure == "out of memory"
    assert found["learning_rate=0.002"].by_guidance == {1.0: {DISTANCE: 3.0}}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_shipped_studies_can_be_trained_and_say_how_they_are_started(two_cores, file, tmp_path):
    assert f"hfdiff study train_scripts/studies/{file.name}" in file.read_text().splitlines()[0]
    assert len(read_study(file, tmp_path).variants) > 1


@pytest.mark.slow
def test_a_dry_run_says_what_a_study_costs_and_writes_nothing(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(
        yaml.safe_dump({"base": SMALL, "images": 6400, "seeds": [0, 1], "factors": {"mixed_precision": ["bf16"]}})
    )
    assert run_command("study", [str(file), "--output_dir", str(tmp_path / "out"), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "2 variants x 2 seeds, images 6400 each" in said
    assert re.search(
        r"mixed_precision=bf16: [\d,]+ parameters, .* minutes of training and .* of drawing for each seed", said
    )
    assert re.search(r"together \d", said)
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def two_cores(monkeypatch):
    """Where there is one, both are it."""
    numbers = (cores() * 2)[:2]
    for module in ("config", "run"):
        monkeypatch.setattr(f"hfdiff.tuning.study.{module}.cores", lambda: numbers)


@pytest.mark.slow
def test_a_study_from_its_file_to_its_results(two_cores, tmp_path, capfd, monkeypatch):
    """Two runs at once on real images; one variant fails and says why; the same command again trains nothing twice."""
    monkeypatch.setattr("hfdiff.tuning.study.judging.MOST_REFERENCE", 600)
    file, home = tmp_path / "study.yaml", tmp_path / "out"
    keys = {"base": {**SMALL, "dataset": "fashion_mnist_12k"}, "images": 64, "seeds": [0], "guidance_scale": [1, 2]}
    factors = {"learning_rate": [2e-3], "from": {"nothing": {"init_from": str(tmp_path / "nothing")}}}
    file.write_text(yaml.safe_dump({**keys, "factors": factors, "num_images": 260, "at_once": 2}))
    words = [str(file), "--output_dir", str(home)]
    assert run_command("study", words) == 1
    said = capfd.readouterr().out
    study = json.loads((home / "study.json").read_text())
    assert {"device", "versions", "judge", "reference_n", "study"} <= study.keys()
    rows = {row["name"]: row for row in study["variants"]}
    assert rows["from=nothing"]["verdict"] == "failed"
    assert str(tmp_path / "nothing") in rows["from=nothing"]["failures"][0]
    for name in (BASE, "learning_rate=0.002"):
        assert rows[name]["values"][DISTANCE]["mean"] > 10 * study["real"][DISTANCE]
        assert rows[name]["values"]["images"]["mean"] == 64
    assert "| real images |" in said
    assert (home / "study.png").is_file()
    shape = {"attention_head_dim", "block_out_channels", "down_block_types", "norm_num_groups", "patch_size"}
    kept = yaml.safe_load((home / "recommended.yaml").read_text())
    assert kept.keys() == {*shape, "batch_size", "mixed_precision", "max_train_images"}
    monkeypatch.setattr("hfdiff.tuning.study.trial.Trainings.train", lambda self, trial: f"trained {trial.variant}")
    assert run_command("study", words) == 1
    again = json.loads((home / "study.json").read_text())
    assert again["variants"][:2] == study["variants"][:2]
    assert again["variants"][2]["failures"] == ["seed 0: trained from=nothing"]
    study = read_study(file, home)
    (folder := trial_of(study, study.variants[0], 0, 1.0).folder).joinpath("judged.json").unlink()
    (trainings := Trainings()).stop()
    with pytest.raises(InterruptedError, match="the study was stopped"):  # a judge that draws does not draw to the end
        open_judge(study, torch.device("cpu")).judge(str(folder), trainings.check)


@pytest.mark.slow
def test_a_study_that_is_left_leaves_no_training_behind(two_cores, study_of, tmp_path):
    """A training that goes on is ended as by a signal, with a checkpoint to go on from."""
    study = study_of(base={**SMALL, "checkpointing_images": 10**7, "logging_images": 80})
    short = trial_of(study, study.variants[0], 0, 1.0)
    long = replace(short, config=replace(short.config, max_train_images=10**8, output_dir=str(tmp_path / "long")))

    def judge(folder: str, check) -> dict:
        while not (long.folder / "metrics.jsonl").exists() and not (tmp_path / "long.log").read_text().count("error"):
            time.sleep(0.1)
        return {1.0: {DISTANCE: 1.0}}

    ends = outcomes([short, long], judge, at_once=2)
    assert next(ends).by_guidance == {1.0: {DISTANCE: 1.0}}
    ends.close()
    assert "the same command resumes" in (tmp_path / "long.log").read_text()
    assert list_checkpoints(long.folder / "checkpoints")
