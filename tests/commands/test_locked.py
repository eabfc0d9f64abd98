"""A command that would write where another is at work: one line that says who, exit code 2, nothing written."""

import os
from pathlib import Path

import pytest
from conftest import ROOT

from hfdiff.cli import main
from hfdiff.core.locks import write_lock

MODEL = str(ROOT / "model_cards" / "fashion_mnist")
DATA = "--dataset fashion_mnist_12k"
COMMANDS = {
    "train": f"train {DATA} --output_dir {{out}}",
    "sample": f"sample {MODEL} --output_dir {{out}}",
    "select": f"select {MODEL} --output_dir {{out}}",
    "show": f"show {MODEL} --output_dir {{out}}",
    "evaluate": f"evaluate {MODEL} {DATA} --output {{out}}",
    "ema": "ema {model} --sigma_rel 0.07 --output_dir {out}",
    "evaluate --images": f"evaluate --images {MODEL} {DATA} --output {{out}}",
    "card": "card {model} --output_dir {out}",
    "train-judge": f"train-judge {DATA} --output_dir {{out}}",
    "study": "study {study} --output_dir {out}",
    "train-clip": f"train-clip {DATA} --output_dir {{out}}",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_in_use_is_left_alone(pipeline, tmp_path, capsys, name):
    out, model, study = tmp_path / "out", tmp_path / "model", tmp_path / "study.yaml"
    pipeline.save_pretrained(model)
    study.write_text("{images: 8, factors: {learning_rate: [1.0e-4]}}")
    with write_lock(out), pytest.raises(SystemExit) as stop:
        main(COMMANDS[name].format(out=out, model=model, study=study).split())
    assert stop.value.code == 2
    assert f"{out} is in use by process {os.getpid()} on" in (said := capsys.readouterr().err)
    assert said.count("hfdiff: error:") == 1
    assert not out.exists()


@pytest.mark.parametrize("command", ["card {model}", "push {model} --dry_run"])
def test_a_card_is_written_by_one_at_a_time(pipeline, tmp_path, capsys, command):
    pipeline.save_pretrained(tmp_path / "model")
    with write_lock(Path(tmp_path / "model" / "README.md")), pytest.raises(SystemExit) as stop:
        main(command.format(model=tmp_path / "model").split())
    assert stop.value.code == 2
    assert "README.md is in use by process" in capsys.readouterr().err
    assert not (tmp_path / "model" / "README.md").exists()
