"""The settings that a model keeps are those of its least distance, within its time."""

import json
from collections.abc import Callable

import pytest
from conftest import TINY_FLAGS, class_folders

from hfdiff.cli import run_command
from hfdiff.core.files import write_json
from hfdiff.models.loading import export_pipeline, load_pipeline, weights_fingerprint
from hfdiff.models.objectives import OBJECTIVES
from hfdiff.models.samplers import sampler_of
from hfdiff.publish.sections import settings_sentence
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.settings import choose_settings, save_settings, search


def curve(best: float, recall: Callable[[float], float] = lambda scale: 0.7, **gains: float):
    """A model whose distance is least at a guidance of `best`, and lower by a share where a setting is given."""

    def measure(settings):
        distance = 1 + (settings["guidance_scale"] - best) ** 2
        for key, gain in gains.items():
            distance *= 1 - gain * (key in settings)
        return {DISTANCE: distance, "recall": recall(settings["guidance_scale"])}

    return measure


@pytest.mark.parametrize("best", [1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0])
def test_the_guidance_of_the_least_distance_is_found(best):
    assert search(curve(best), tries=20).best == {"guidance_scale": best, "style_guidance_scale": best}


def test_variety_is_not_given_for_nearness():
    various = curve(3.0, recall=lambda scale: 0.7 if scale <= 2 else 0.3)
    assert search(various, tries=20).best["guidance_scale"] == 2.0


def test_a_model_that_listens_less_is_not_chosen_for_its_nearness():
    def measure(settings):
        return curve(1.5)(settings) | {"class_accuracy": min(0.9, 0.3 + 0.3 * settings["guidance_scale"])}

    assert search(measure, tries=20).best["guidance_scale"] == 1.75


def test_the_guidance_of_styles_is_chosen_apart_and_loses_no_style():
    def measure(settings):
        apart = settings["style_guidance_scale"] - settings["guidance_scale"]
        return curve(2.0)(settings) | {
            DISTANCE: curve(2.0)(settings)[DISTANCE] + 0.1 * apart,
            "style_fidelity": 0.5 + 0.05 * apart * faded,
        }

    faded = 0.0
    assert search(measure, tries=20).best == {"guidance_scale": 2.0, "style_guidance_scale": 1.0}
    faded = 1.0
    assert search(measure, tries=20).best == {"guidance_scale": 2.0, "style_guidance_scale": 1.5}


def test_of_settings_about_as_near_the_most_various_is_taken():
    def measure(settings):
        values = curve(2.0)(settings)
        return values | {"recall": 0.5 + 0.1 * ("guidance_interval" in settings), DISTANCE: 1.01 * values[DISTANCE]}

    assert search(measure, tries=20).best["guidance_interval"] == [0.1, 10.0]


def test_a_costly_refinement_must_gain():
    assert "num_inference_steps" not in search(curve(2.0, num_inference_steps=0.02), tries=20).best
    found = search(curve(2.0, num_inference_steps=0.1, guidance_interval=0.1, autoguidance_scale=0.1), 20, guided=True)
    assert found.best.keys() == {
        *("guidance_scale", "style_guidance_scale", "num_inference_steps", "guidance_interval", "autoguidance_scale")
    }
    assert "autoguidance_scale" not in search(curve(2.0, autoguidance_scale=0.1), tries=20).best
    assert search(curve(2.0, sampler=0.1), tries=20, samplers=["unipc", "ipndm"]).best["sampler"] == "unipc"


def test_a_model_keeps_its_sampler_and_settings(pipeline, tmp_path):
    export_pipeline(pipeline, tmp_path / "model")
    chosen = {"num_inference_steps": 4, "guidance_scale": 1.5, "style_guidance_scale": 2.5, "sampler": "ipndm"}
    save_settings(str(tmp_path / "model"), chosen, pipeline.scheduler)
    kept = load_pipeline(str(tmp_path / "model"))
    assert sampler_of(kept.scheduler) == "ipndm"
    assert kept.settings().items() >= (chosen.items() - {("sampler", "ipndm")})
    assert weights_fingerprint(kept.unet) == weights_fingerprint(pipeline.unet)


def test_without_time_nothing_is_chosen(pipeline):
    assert choose_settings(pipeline, lambda: pytest.fail("the judge is asked"), seconds=1e-6) is None


def test_without_a_judge_a_model_keeps_what_suits_its_objective(tmp_path):
    data, run = class_folders(tmp_path / "data", {"a": 12, "b": 12}), tmp_path / "run"
    flags = ["--dataset", str(data), "--max_train_images", "16", "--objective", "epsilon", "--output_dir", str(run)]
    assert run_command("train", [*flags, *TINY_FLAGS]) == 0
    scale = OBJECTIVES["epsilon"].guidance_scale
    asked = {"guidance_scale": scale, "style_guidance_scale": scale, "guidance_interval": [0.1, 10.0]}
    assert load_pipeline(str(run)).settings().items() >= asked.items()
    found = json.loads((run / "training.json").read_text())["settings"]
    assert found["chosen"] == {"num_inference_steps": 10, **asked}
    assert settings_sentence(found).endswith("usual for epsilon, as no search chose")


@pytest.mark.slow
def test_training_ends_with_the_settings_that_the_model_keeps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hfdiff.commands.train.SETTINGS_SHARE", 100.0)
    monkeypatch.setattr("hfdiff.tuning.settings.search", lambda measure, tries, *more: search(measure, min(tries, 2)))
    monkeypatch.setattr("hfdiff.tuning.settings.NUMBERS", (260,))
    monkeypatch.setattr("hfdiff.commands.train.MOST_REFERENCE", 600)
    flags = ["--dataset", "fashion_mnist_12k", "--max_train_images", "64", "--output_dir", str(tmp_path / "run")]
    assert run_command("train", [*flags, *TINY_FLAGS]) == 0
    found = json.loads((tmp_path / "run" / "training.json").read_text())["settings"]
    tried = {one["settings"]["guidance_scale"]: one["metrics"][DISTANCE] for one in found["tried"]}
    assert len(tried) == 2
    assert found["n"] == 260
    scale = load_pipeline(str(tmp_path / "run")).settings()["guidance_scale"]
    assert scale == found["chosen"]["guidance_scale"]
    assert scale in tried
    assert "num_inference_steps 10, guidance_scale" in settings_sentence(found)
    kept = load_pipeline(str(tmp_path / "run"))
    kept.register_to_config(sampling={"num_inference_steps": 3, "guidance_interval": [0.5, 0.6]})
    export_pipeline(kept, tmp_path / "run" / "pipeline")  # what an earlier search chose is no part of a later one
    record = tmp_path / "run" / "training.json"
    write_json(record, {key: value for key, value in json.loads(record.read_text()).items() if key != "settings"})
    for _ in range(2):  # cut off before they were chosen: made up for once
        assert run_command("train", [*flags, *TINY_FLAGS]) == 0
    assert capsys.readouterr().out.count("saved with num_inference_steps 10") == 2
    assert json.loads(record.read_text())["settings"]["tried"] == found["tried"]
