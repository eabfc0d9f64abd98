"""Watching changes nothing, what is not finite is never kept, and secrets stay where they are."""

import math
import zipfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest import lines, newest_tensors

import hfdiff.training.run as run_module
from hfdiff.core.errors import TrainingFailed
from hfdiff.models.loading import load_pipeline
from hfdiff.training import loop
from hfdiff.training.checkpoint import list_checkpoints
from hfdiff.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

OFTEN = ("--logging_images", "8", "--validation_images", "16", "--sample_images", "24", "--checkpointing_images", "8")
SAVING = (
    "--logging_images",
    "8",
    "--validation_images",
    "24",
    "--sample_images",
    "9999",
    "--checkpointing_images",
    "8",
)
NEVER = ("--logging_images", "9999", "--validation_images", "9999", "--checkpointing_images", "9999")


def test_watching_changes_nothing(start, tmp_path):
    flags = ("--max_train_images", "48", "--dropout", "0.1")
    start("watched", *flags, *OFTEN, "--report_to", "tensorboard")
    start("alone", *flags, *NEVER)
    watched, alone = newest_tensors(tmp_path / "watched"), newest_tensors(tmp_path / "alone")
    assert watched.keys() == alone.keys()
    assert all(torch.equal(watched[name], alone[name]) for name in watched)


def test_measuring_quality_changes_nothing(start, tmp_path, monkeypatch):
    monkeypatch.setattr("hfdiff.evaluation.monitor.MOST", 520)
    data = ("--dataset", "fashion_mnist_12k", "--batch_size", "40")
    flags = (*data, "--max_train_images", "80", "--sample_images", "40")
    start("watched", *flags, "--best_by", "frechet_judge")
    monkeypatch.setattr("hfdiff.commands.train.find_judge", lambda *_: None)
    start("alone", *flags)
    assert "frechet_judge" not in lines(tmp_path / "alone")[-1]
    assert "frechet_judge" in lines(tmp_path / "watched")[-1]
    watched, alone = newest_tensors(tmp_path / "watched"), newest_tensors(tmp_path / "alone")
    assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_a_damaged_checkpoint_is_not_the_last_good_state(start, tmp_path):
    start("run", "--max_train_images", "32", *SAVING)
    (tmp_path / "run" / "checkpoints" / "step-000000004" / "unet.safetensors").unlink()
    naming = run_module.report_last_checkpoint(RunFolder(tmp_path / "run"))
    with pytest.raises(TrainingFailed, match="oh; the last good state is .*step-000000003$"), naming:
        raise TrainingFailed("oh")


def test_a_tracker_that_fails_is_given_up(start, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to the tracker")

    monkeypatch.setattr(Accelerator, "log", fail)
    assert start("run", "--max_train_images", "32", "--report_to", "tensorboard") == 0
    assert "the tracker failed and is given up: no route to the tracker" in capsys.readouterr().out
    assert len(lines(tmp_path / "run")) == 2


def poisoned_unet(state) -> None:
    next(state.unet.parameters()).data[0] = math.nan


def poisoned_average(state) -> None:
    state.ema.weights[0].fill_(math.inf)


def poisoned_moments(state) -> None:
    for moments in state.optimizer.state.values():
        moments["exp_avg"].fill_(math.inf)


STATES = {"weights": poisoned_unet, "EMA weights": poisoned_average, "moments of the optimizer": poisoned_moments}


def poisoned(name: str):
    """A function of the loop whose result is not finite, as the place says; from the third step on."""

    def make_inputs(config, table, objective, draw, original=loop.make_inputs):
        inputs = original(config, table, objective, draw)
        getattr(inputs.noised, name).flatten()[0] = math.nan
        return inputs

    def errors_of(unet, inputs, accelerator, original=loop.errors_of):
        return original(unet, inputs, accelerator) * math.inf

    def lr_factor(*args, original=loop.lr_factor, **kwargs):
        return math.nan

    def gradients(config, table, state, *args, original=loop._gradients):
        done = original(config, table, state, *args)
        next(state.unet.parameters()).grad[0] = math.nan
        return done

    made = {"an error": ("errors_of", errors_of), "the learning rate": ("lr_factor", lr_factor)}
    made["a gradient"] = ("_gradients", gradients)
    return made.get(name, ("make_inputs", make_inputs))


PLACES = ("sample", "target", "weight", "an error", "the learning rate", "a gradient", *STATES, "the validation loss")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_is_never_kept(start, tmp_path, monkeypatch, request, precision, place):
    if precision == "fp16":
        monkeypatch.setattr("hfdiff.training.checks.precision_of", lambda *_: ("fp16", "for the test"))
        fp16_on_cpu = request.getfixturevalue("fp16_on_cpu")
        monkeypatch.setattr("hfdiff.training.session.Accelerator", lambda **_: fp16_on_cpu)

    def after_step(run, step, *args, original=run_module.after_step):
        original(run, step, *args)
        if step.step == 3 and place in STATES:
            STATES[place](run.session.state)
        elif step.step == 3 and place == "the validation loss":
            monkeypatch.setattr("hfdiff.training.session.validate", lambda *_: math.nan)
        elif step.step == 3:
            monkeypatch.setattr(loop, *poisoned(place))

    monkeypatch.setattr(run_module, "after_step", after_step)
    flags = ("--max_train_images", "56", *SAVING, "--keep_checkpoints", "9")
    good = 5 if place == "the validation loss" else 3  # which is next due at the sixth step
    with pytest.raises(TrainingFailed, match=f"the last good state is .*step-00000000{good}$"):
        start("run", *flags, "--mixed_precision", precision if precision == "bf16" else "no")
    run = tmp_path / "run"
    assert len(list_checkpoints(run / "checkpoints")) == good
    for kept in (newest_tensors(run), load_pipeline(str(run)).unet.state_dict()):
        assert all(torch.isfinite(value).all() for value in kept.values())


def test_what_a_run_writes_holds_no_pickle_and_no_secret(start, tmp_path, monkeypatch, capfd):
    secret = "hf_" + "Canary" * 6
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert start("run", "--max_train_images", "40", *OFTEN, "--report_to", "tensorboard") == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content, path
        assert not (content[:1] == b"\x80" and content[1:2] <= b"\x05"), path  # how a pickle begins
        assert path.suffix == ".webp" or not zipfile.is_zipfile(path), path  # how torch wraps one
    kinds = {path.suffix for path in files if "tfevents" not in path.name}
    assert kinds == {".safetensors", ".json", ".jsonl", ".yaml", ".yml", ".png", ".py"}
    assert not any(secret in said for said in capfd.readouterr())


def test_paths_of_a_run_are_not_in_its_pipeline(start, tmp_path):
    assert start("run", "--max_train_images", "16") == 0
    for path in (Path(p) for p in (tmp_path / "run" / "pipeline").rglob("*.json")):
        assert str(tmp_path) not in path.read_text(), path
