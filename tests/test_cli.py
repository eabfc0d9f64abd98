"""The `hfdiff` command."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from hfdiff import plan
from hfdiff.cli import main


@pytest.fixture
def model(pipeline, tmp_path) -> str:
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def hfdiff(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return stop.value.code


def test_sample_writes_each_picture_and_a_sheet(model, tmp_path):
    flags = ["--class_labels", "sneaker", "bag", "--styles", "thick:0.8", "plain", "--num_images", "3"]
    for name in ("a", "b"):
        assert hfdiff("sample", model, *flags, "--num_inference_steps", "2", "--output_dir", str(tmp_path / name)) == 0
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert [image["class"] for image in record["images"]] == ["Sneaker"] * 3 + ["Bag"] * 3
    assert record["images"][0] == {"file": "0000-sneaker-thick-0.8.png", "class": "Sneaker", "styles": {"thick": 0.8}}
    for image in record["images"]:
        first, second = (np.asarray(Image.open(tmp_path / name / image["file"])) for name in ("a", "b"))
        assert first.shape == (28, 28)
        assert np.array_equal(first, second)
    assert Image.open(tmp_path / "a" / "grid.png").size[0] > 100


def test_sample_draws_the_table_of_classes_and_styles(model, tmp_path):
    out = tmp_path / "out"
    assert hfdiff("sample", model, "--num_images", "1", "--num_inference_steps", "1", "--output_dir", str(out)) == 0
    images = json.loads((out / "samples.json").read_text())["images"]
    assert [(image["class"], image["styles"]) for image in images[:3]] == [
        ("Sneaker", {}),
        ("Sneaker", {"thick": 1.0}),
        ("Sneaker", {"thin": 1.0}),
    ]
    assert len(images) == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--class_labels", "boot"), "unknown class 'boot'; valid: Sneaker, Bag, T-shirt/top"),
        (("--styles", "thick:2"), "strength '2' of style 'thick'; valid: a number from 0 to 1"),
        (("--styles", "thick+thin"), "exclude each other"),
        (("--num_images", "0"), "num_images is 0; valid: 1 to 10000"),
        (("--guidance_scale", "nan"), "valid: -1000 to 1000"),
        (("--output_dir", ""), "output_dir is ''; valid: a folder"),
        (("--num_inference_steps", "0"), "num_inference_steps 0; valid: 1 to 1000"),
        (("--class_label", "bag"), "--class_labels"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(model, tmp_path, capsys, flags, message):
    assert hfdiff("sample", model, "--output_dir", str(tmp_path / "out"), *flags) == 2
    error = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "it/s" not in line)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_plan_says_what_training_costs_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "TIMED_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text("size: tiny\nbatch_size: 16\n")
    flags = ["--gradient_accumulation_steps", "2", "--output_dir", "run"]
    assert hfdiff("plan", "--config", str(file), *flags) == 0
    out = capsys.readouterr().out
    assert re.search(r"model: +186,\d{3} parameters, size tiny\n", out)
    for number in (r"GFLOPs an image forward", r"in a training step", r"GiB at the peak", r"hours per million images"):
        assert float(re.search(rf"([\d.]+) {number}", out)[1]) >= 0
    assert "batches of 16 in micro-batches of 8" in out
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "huge"), "unknown size 'huge'"),
        (("--config", "absent.yaml"), "configuration 'absent.yaml' cannot be read"),
        (("--block_out_channels", "8"), "block_out_channels [8] and down_block_types"),
        (("--styles", "warm"), "needs colour pictures"),
        (("--lerning_rate", "1"), "Perhaps you meant: --learning_rate"),
        (("--size", "tiny", "--norm_num_groups", "5"), "not divisible by norm_num_groups 5"),
    ],
)
def test_mistakes_in_a_plan_are_one_line(capsys, flags, message):
    assert hfdiff("plan", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unknown_model_and_command(tmp_path, capsys):
    assert hfdiff("sample", str(tmp_path), "--output_dir", str(tmp_path / "out")) == 2
    assert "holds no pipeline" in capsys.readouterr().err
    assert hfdiff("simple") == 2
    assert "unknown command 'simple'; valid: sample, plan" in capsys.readouterr().err


def test_help_lists_the_commands(capsys):
    assert hfdiff() == 0
    assert "sample" in capsys.readouterr().out
