"""`hfdiff evaluate --images`: samples of any program, measured as a model's are."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import class_folders, make_image
from test_cli import evaluate, hfdiff

from hfdiff.core.seeds import derive_seed
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.evaluation.features import content_order
from hfdiff.evaluation.judge import load_judge
from hfdiff.evaluation.protocol import SETTINGS, draw_request, plain_request
from hfdiff.evaluation.reference_images import ReferenceSet
from hfdiff.models.loading import load_pipeline

pytestmark = pytest.mark.slow


def evaluate_images(pets: dict[str, str], folder: object, output: object, *flags: str) -> int:
    words = ["--images", str(folder), "--dataset", pets["data"], "--judge", pets["judge"], "--output", str(output)]
    return hfdiff("evaluate", *words, *flags)


def test_saved_samples_measure_as_the_model_that_drew_them(pets, clip, tmp_path, capsys):
    n = 260
    assert evaluate(pets, tmp_path / "model.json", "--num_images", str(n), "--num_styled", "0", "--clip", clip) == 0
    pipeline = load_pipeline(pets["model"])
    pipeline.set_progress_bar_config(disable=True)
    training, held_out = load_training_data(pets["data"])[0], load_test_data(pets["data"])
    request = plain_request(ReferenceSet.of(load_judge(pets["judge"]), training, held_out), n)
    pixels = draw_request(pipeline, request, derive_seed(0, 0), num_inference_steps=1)
    for i, (image, label) in enumerate(zip(pixels, request.labels.tolist())):
        folder = tmp_path / "samples" / training.class_names[label].upper()
        folder.mkdir(parents=True, exist_ok=True)
        pipeline.numpy_to_pil(image.permute(1, 2, 0).numpy()[None] / 255)[0].save(folder / f"{i}.png")
    assert evaluate_images(pets, tmp_path / "samples", tmp_path / "images.json", "--clip", clip) == 0
    drawn, given = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("model", "images"))
    assert given["metrics"].keys() == drawn["metrics"].keys()
    assert len(given["metrics"]) > 8
    assert given["metrics"] == drawn["metrics"]
    assert given["version"] == drawn["version"] == 2
    assert given.keys() == drawn.keys()
    assert given["protocol"].keys() == drawn["protocol"].keys()
    of_models = ("model", "weights", "selection", "best_by", "spacing", "sampler", *SETTINGS)
    assert {given["protocol"][key] for key in of_models} == {None}
    assert given["protocol"]["images"] == "samples/"
    assert drawn["protocol"]["images"] is None
    assert given["protocol"]["class_counts"] == drawn["protocol"]["class_counts"]
    assert given["protocol"]["missing"] == ["style_fidelity and recognition need a model"]
    said = capsys.readouterr().out.partition("images of samples/")[2]
    assert said.count("style_fidelity and recognition need a model") == 1


def test_a_class_without_images_is_named_and_left_out_on_both_sides(pets, tmp_path, capsys):
    folder = class_folders(tmp_path / "samples", {"cat": 120}, size=(28, 28))
    assert evaluate_images(pets, folder, tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["class_counts"] == {"cat": 120, "dog": 0}
    assert report["protocol"]["reference_n"] == 130
    assert report["metrics"]["class_accuracy"]["per_class"].keys() == {"cat"}
    said = capsys.readouterr().out
    for line in (
        "no image of class dog; real images of it are left out",
        "120 images of samples/: cat 120, dog 0",
        "frechet_judge needs 256 samples; there are 120",
    ):
        assert line in said
    assert "frechet_judge needs 256 samples; there are 120" in report["protocol"]["missing"]


def test_some_of_the_images_are_measured(pets, tmp_path, capsys):
    folder = class_folders(tmp_path / "samples", {"0": 40, "1": 40}, size=(28, 28))
    (folder / "1" / "notes.txt").touch()
    flags = ("--num_images", "30", "--metrics", "class_accuracy")
    assert evaluate_images(pets, folder, tmp_path / "report.json", *flags) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["n"] == report["metrics"]["class_accuracy"]["n"] == 30
    assert min(report["protocol"]["class_counts"].values()) > 5
    assert "left out: 1 other file (.txt 1)" in capsys.readouterr().out


def test_a_judge_of_other_data_is_named_and_the_rest_measured(pets, tmp_path, capsys):
    folder, output = class_folders(tmp_path / "samples", {"0": 9, "1": 9}, size=(28, 28)), tmp_path / "report.json"
    words = ["--images", str(folder), "--dataset", "fashion_mnist_12k", "--judge", pets["judge"]]
    assert hfdiff("evaluate", *words, "--output", str(output), "--metrics", "class_accuracy") == 0
    report = json.loads(output.read_text())
    said = "is left out for the dataset's own: the judge knows the classes cat, dog; dataset 'fashion_mnist_12k' has"
    assert said in report["protocol"]["missing"][0]
    assert said in capsys.readouterr().out
    assert report["metrics"]["class_accuracy"]["n"] == 18
    assert hfdiff("evaluate", *words, "--output", str(output), "--metrics", "recall") == 2


def test_the_order_of_images_is_their_contents_and_the_seeds():
    pixels = torch.randint(0, 3, (200, 1, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.arange(200) % 7
    order = content_order(pixels, labels, 3)
    assert order.sort().values.tolist() == list(range(200))
    mixed = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    again = mixed[content_order(pixels[mixed], labels[mixed], 3)]
    assert torch.equal(pixels[order], pixels[again])
    assert torch.equal(labels[order], labels[again])
    assert not torch.equal(labels[order], labels[content_order(pixels, labels, 4)])
    assert (labels[order].diff() != 0).double().mean() > 0.7  # sorted by nothing


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """Folders of samples; all but one have a fault."""
    place = tmp_path_factory.mktemp("places")
    folders = {
        "good": {"cat": 4, "dog": 5}, "small": {"cat": 9}, "colour": {"cat": 9}, "other": {"cat": 1, "dogg": 1},
        "number": {"0": 1, "2": 1}, "twice": {"dog": 1, "DOG": 1}, "loose": {"cat": 1}, "cut": {"cat": 2},
    }  # fmt: skip
    for name, counts in folders.items():
        size = (12, 12) if name == "small" else (28, 28)
        class_folders(place / name, counts, "RGB" if name == "colour" else "L", size)
    shutil.move(place / "loose" / "cat" / "0.png", place / "loose" / "0.png")
    (place / "cut" / "cat" / "0.png").write_bytes((place / "cut" / "cat" / "0.png").read_bytes()[:100])
    (place / "empty").mkdir()
    return place


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{model}"], "give one of MODEL and --images FOLDER"),
        (["--guidance_scale", "2", "--num_styled", "9"], "so --guidance_scale, --num_styled cannot be used with it"),
        (["--spacing", "karras"], "so --spacing cannot be used"),
        (["--minutes", "1"], "so --minutes cannot be used"),
        (["--metrics", "style_fidelity"], "style_fidelity and recognition need a model"),
        (["--metrics", "frechet_judge"], "frechet_judge needs 256 samples; there are 9"),
        (["--num_images", "10"], "num_images is 10; .*good holds 9"),
        (["--seed", "-1"], "seed is -1; valid"),
        (["--label_column", "kind"], "unknown column 'kind'"),
        (["--images", "{place}/none"], "--images is '.*none'; valid: a folder of class folders, or of parquet"),
        (["--images", "{place}/empty"], "no images in the folder"),
        (["--images", "{place}/small"], "small/ holds images of 12x12, dataset 'pets/' of 28x28; give --resolution 28"),
        (["--images", "{place}/colour"], "9 of 9 images in colour/ have colour .*'pets/' is grey .*save them in grey"),
        (["--images", "{place}/other"], "other: unknown class 'dogg' .did you mean 'dog'.*valid: cat, dog"),
        (["--images", "{place}/number"], "number: unknown class '2'; valid: cat, dog, .* or the numbers 0 to 1"),
        (["--images", "{place}/twice"], "twice: DOG, dog are one class, dog; join them"),
        (["--images", "{place}/loose"], "lies in no class folder"),
        (["--images", "{place}/cut"], "0.png: not a readable image"),
        (["--images", "{data}"], "holds the splits test, train; give a folder with the samples alone"),
    ],
)  # fmt: skip
def test_evaluate_refuses_images(pets, places, tmp_path, capsys, flags, message):
    words = [word.format(place=places, **pets) for word in flags]
    assert evaluate_images(pets, places / "good", tmp_path / "report.json", *words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


def test_evaluate_names_what_it_lacks(pets, folder, tmp_path, capsys):
    for words, message in (
        ([], "give MODEL or --images FOLDER"),
        (["--images", folder], "--images needs --dataset"),
        ([pets["model"], "--label_column", "kind"], "--label_column goes with --images"),
    ):
        assert hfdiff("evaluate", *words) == 2
        assert message in capsys.readouterr().err


def test_images_of_another_size_are_resized_when_asked(pets, tmp_path):
    folder = class_folders(tmp_path / "samples", {"cat": 9, "dog": 9}, size=(40, 30))
    make_image(3, (28, 28)).convert("RGB").save(folder / "dog" / "grey.png")
    flags = ("--resolution", "28", "--metrics", "class_accuracy")
    assert evaluate_images(pets, folder, tmp_path / "report.json", *flags) == 0
    assert json.loads(Path(tmp_path / "report.json").read_text())["protocol"]["n"] == 19
