"""The `hfdiff` command."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import CATS, make_image, tiny_unet
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from hfdiff.cli import COMMANDS, main
from hfdiff.core.config import to_mapping
from hfdiff.core.errors import Printable
from hfdiff.evaluation.metrics import METRICS
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.config import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture
def model(pipeline, tmp_path) -> str:
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def hfdiff(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return stop.value.code


def test_sample_writes_each_image_and_a_sheet(model, tmp_path):
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


def test_sample_repairs_a_part_of_an_image(model, tmp_path):
    half = np.zeros((28, 28), dtype=np.uint8)
    half[:, 14:] = 255
    make_image(3, (28, 28)).save(tmp_path / "shoe.png")
    Image.fromarray(half).save(tmp_path / "half.png")
    files = ["--image", str(tmp_path / "shoe.png"), "--mask", str(tmp_path / "half.png")]
    flags = ["--strength", "0.7", "--guidance_interval", "0.2", "inf", "--guidance_rescale", "0.5"]
    out = tmp_path / "out"
    words = ["--class_labels", "bag", "--styles", "thin", "--num_images", "2", *files, *flags]
    assert hfdiff("sample", model, *words, "--output_dir", str(out)) == 0
    record = json.loads((out / "samples.json").read_text(), parse_constant=pytest.fail)
    assert (record["image"], record["strength"]) == (str(tmp_path / "shoe.png"), 0.7)
    assert record["guidance_interval"] == [0.2, "inf"]
    original = np.asarray(make_image(3, (28, 28)))
    first, second = (np.asarray(Image.open(out / image["file"])) for image in record["images"])
    for drawn in (first, second):
        assert np.array_equal(drawn[:, :14], original[:, :14])
        assert not np.array_equal(drawn[:, 14:], original[:, 14:])
    assert not np.array_equal(first, second)


def test_sample_reads_an_image_as_training_does(model, tmp_path):
    values = np.asarray(make_image(3, (28, 28)))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned a quarter to the right
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep.tif", exif=orientation)
    Image.new("L", (28, 28), 0).save(tmp_path / "keep.png")
    files = ["--image", str(tmp_path / "deep.tif"), "--mask", str(tmp_path / "keep.png")]
    words = ["--class_labels", "bag", "--num_images", "1", "--num_inference_steps", "1"]
    assert hfdiff("sample", model, *words, *files, "--output_dir", str(tmp_path / "out")) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "0000-bag-plain.png")), np.rot90(values, -1))


def test_sample_begins_the_whole_table_with_one_image(model, tmp_path):
    make_image(3, (40, 30), "RGB").save(tmp_path / "shoe.jpg")
    words = ["--num_images", "1", "--num_inference_steps", "2", "--output_dir", str(tmp_path / "out")]
    assert hfdiff("sample", model, "--image", str(tmp_path / "shoe.jpg"), *words) == 0
    assert len(json.loads((tmp_path / "out" / "samples.json").read_text())["images"]) == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image", "absent.png"), "image 'absent.png' cannot be read: No such file or directory"),
        (("--image", __file__), "test_cli.py' cannot be read: cannot identify image file"),
        (("--image", "{pipe}"), "pipe' cannot be read: it is no regular file; valid: an image"),
        (("--image", "{image}", "--strength", "1.5"), "strength 1.5; valid: above 0, to 1"),
        (("--image", "{image}", "--strength", "0"), "strength 0.0; valid: above 0, to 1"),
        (("--strength", "0.5"), "strength 0.5 without an image"),
        (("--mask", "{image}"), "mask without an image"),
        (("--image", "{image}", "--mask", "absent.png"), "mask 'absent.png' cannot be read"),
        (("--guidance_interval", "5", "1"), "guidance_interval (5.0, 1.0); valid: two noise levels, 0 <= low < high"),
        (("--guidance_interval", "5"), "guidance_interval"),
        (("--guidance_rescale", "2"), "guidance_rescale 2.0; valid: 0 to 1"),
        (("--autoguidance_scale", "2"), "autoguidance_scale 2.0 without a guide_unet; valid: 1"),
        (("--class_labels", "boot"), "unknown class 'boot'; valid: Sneaker, Bag, T-shirt/top"),
        (("--styles", "thick:2"), "strength '2' of style 'thick'; valid: a number from 0 to 1"),
        (("--styles", "thick+thin"), "exclude each other"),
        (("--num_images", "0"), "num_images is 0; valid: 1 to 10000"),
        (("--guidance_scale", "nan"), "valid: -1000 to 1000"),
        (("--output_dir", ""), "output_dir is ''; valid: a folder"),
        (("--num_inference_steps", "0"), "num_inference_steps 0; valid: a whole number, 1 to 1000"),
        (("--class_label", "bag"), "--class_labels"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(model, tmp_path, capsys, flags, message):
    make_image(0).save(tmp_path / "picture.png")
    os.mkfifo(tmp_path / "pipe")
    flags = [flag.format(image=tmp_path / "picture.png", pipe=tmp_path / "pipe") for flag in flags]
    assert hfdiff("sample", model, "--output_dir", str(tmp_path / "out"), *flags) == 2
    error = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "it/s" not in line)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_plan_says_what_training_costs_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hfdiff.training.cost.TIMED_SECONDS", 0.0)
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
        (("--styles", "warm"), "needs colour images"),
        (("--lerning_rate", "1"), "Perhaps you meant: --learning_rate"),
        (("--size", "tiny", "--norm_num_groups", "5"), "not divisible by norm_num_groups 5"),
        (("--output_dir", "/proc/x"), "output_dir '/proc/x' cannot be written"),
        (("--output_dir", __file__), "test_cli.py is no folder; give another"),
        (("--report_to", "wandb"), "report_to 'wandb' is not installed"),
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
    assert hfdiff("sample", "absent", "--output_dir", "/proc/x") == 2
    assert "output_dir '/proc/x' cannot be written" in capsys.readouterr().err
    assert hfdiff("simple") == 2
    assert (
        "unknown command 'simple' (did you mean 'sample'?); valid: train, plan, study, sample, select, evaluate, show"
        in capsys.readouterr().err
    )


def test_help_lists_the_commands(capsys):
    assert hfdiff() == 0
    assert "sample" in capsys.readouterr().out


@pytest.mark.parametrize("endpoint", ["garbage", "http://127.0.0.1:99999", "http://[::1", ""])
def test_an_address_of_the_hub_that_is_none(endpoint, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert hfdiff("card", "model") == 2
    assert f"HF_ENDPOINT is {endpoint!r}; valid" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["", *(f"{name} --help" for name in COMMANDS)])
def test_help_waits_for_no_library(words):
    heavy = {"torch", "numpy", "diffusers", "transformers", "datasets", "accelerate", "matplotlib"}
    script = f"import atexit, sys; atexit.register(lambda: print(sorted({{*sys.modules}} & {heavy})))"
    script += "; from hfdiff.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True)
    assert "usage: " in done.stdout, done.stderr
    assert done.stdout.endswith("[]\n")


def test_training_keys_stand_in_groups_with_a_line_each(capsys):
    assert hfdiff("train", "--help") == 0
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert re.findall(r"(\w+) options\b", said) == ["data", "model", "objective", "optimisation", "run"]
    flags = set(re.findall(r"(?m)^[^\w\n]*?--(?!no_)(\w+)", said)) - {"help", "config"}
    assert {*to_mapping(TrainConfig())} == flags
    for base in TrainConfig.__mro__[1:-1]:
        for key, text in documented(base).items():
            assert text, f"{key} has no line"
            assert "\n" not in text


def documented(cls: type) -> dict[str, str]:
    """Field -> the text below it in the source."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    fields = [(node.target.id, after) for node, after in pairwise(body) if isinstance(node, ast.AnnAssign)]
    return {name: ast.literal_eval(after.value) if isinstance(after, ast.Expr) else "" for name, after in fields}


def test_sample_takes_another_sampler(model, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--class_labels", "bag", "--num_images", "1", "--num_inference_steps", "3", "--output_dir", str(out)]
    assert hfdiff("sample", model, *words, "--sampler", "ipndm") == 0
    assert json.loads((out / "samples.json").read_text())["sampler"] == "ipndm"
    assert hfdiff("sample", model, *words, "--sampler", "ddim") == 2
    assert "valid: heun, dpmpp_2m, unipc, euler, ipndm" in capsys.readouterr().err


def evaluate(pets: dict[str, str], output: object, *flags: str) -> int:
    words = [pets["model"], "--dataset", pets["data"], "--judge", pets["judge"], "--output", str(output)]
    return hfdiff("evaluate", *words, "--num_inference_steps", "1", *flags)


def test_evaluate_writes_the_same_report_twice(pets, tmp_path, capsys):
    for name in ("a", "b"):
        flags = ("--num_images", "60", "--num_styled", "100", "--guidance_scale", "1")
        assert evaluate(pets, tmp_path / f"{name}.json", *flags) == 0
    reports = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("a", "b")]
    for report in reports:
        assert report.pop("seconds").keys() == {"drawing", *report["metrics"]}
    assert reports[0] == reports[1]
    protocol, metrics = reports[0]["protocol"], reports[0]["metrics"]
    assert {
        "n": 60,
        "num_styled": 100,
        "seed": 0,
        "dataset": "pets/",
        "split": "test",
    }.items() <= protocol.items()
    assert protocol["sampler"] == "dpmpp_2m"
    assert protocol["guidance_scale"] == 1
    assert protocol["num_inference_steps"] == 1
    assert protocol["guidance_interval"] == [0.0, "inf"]
    assert {"value", "n", "real", "ci95", "extractor"} <= metrics["class_accuracy"].keys()
    assert sum(map(sum, metrics["class_accuracy"]["confusion"])) == 60
    said = capsys.readouterr().out
    assert "frechet_judge needs 256" in said
    assert "class_accuracy" in said


def test_evaluate_within_a_time(pets, tmp_path, capsys):
    assert (
        evaluate(pets, tmp_path / "report.json", "--minutes", "0.01", "--num_images", "40", "--num_styled", "20") == 0
    )
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    assert 2 <= protocol["n"] <= 40
    assert "0.01 minutes: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics", "fid"], "unknown metric 'fid'.*frechet_judge"),
        (["--metrics", "frechet_judge", "--num_images", "20"], "frechet_judge needs 256 samples; there are 20"),
        (["--num_images", "0"], "num_images is 0; valid: 1 to"),
        (["--minutes", "-1"], "minutes is -1.0; valid"),
        (["--output", "."], "output is '.'; valid: a file"),
        (["--output", "/dev/null"], "output /dev/null is no plain file"),
        (["--output", "report/"], "output is 'report/'; valid: a file"),
        (["--guidance_scale", "nan"], "guidance_scale nan; valid"),
        (["--autoguidance_scale", "2"], "autoguidance_scale 2.0 without a guide_unet"),
        (["--judge", "nowhere"], "unknown judge 'nowhere'"),
        (["--dataset", "fashion_mnist_12k"], "draws the classes cat, dog; dataset 'fashion_mnist_12k' has T"),
        (
            ["--resolution", "32"],
            "draws images of 28x28 with 1 channels.*32x32 with 1 channels; give --resolution 28",
        ),
    ],
)
def test_evaluate_refuses(pets, tmp_path, capsys, flags, message):
    assert evaluate(pets, tmp_path / "report.json", *flags) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


def test_evaluate_knows_the_data_of_a_run_only(pets, capsys):
    assert hfdiff("evaluate", pets["model"]) == 2
    assert "which would name its dataset; give --dataset" in capsys.readouterr().err


def select_pets(pets: dict[str, str], out: Path, *flags: str) -> int:
    return hfdiff("select", pets["model"], "--output_dir", str(out), "--num_inference_steps", "2", *flags)


def test_select_keeps_the_best_and_says_what_the_scores_mean(pets, clip, tmp_path, capsys):
    out, beside = tmp_path / "best", ["--dataset", pets["data"], "--judge", pets["judge"]]
    flags = ["--clip", clip, "--num_candidates", "6", "--top_k", "2", "--score_weights", "class:2", "quality"]
    beside += ["--guidance_interval", "0", "inf"]
    assert select_pets(pets, out, *flags, *beside, "--styles", "plain", "thick:0.5") == 0
    found = json.loads((out / "selection.json").read_text())
    assert found["clip"] == {"name": "clip", "trained_on": "pets/", "half_seen": "second"}
    assert found["score_weights"] == {"class": 2, "quality": 1}
    assert found["guidance_interval"] == [0.0, "inf"]
    assert found["prompts"]["quality"]["a blurry photo of {}"] is False
    assert set(found["classes"]) == set(CATS)
    cell = found["classes"]["dog"]["by_style"]["thick:0.5"]
    assert cell["prompt"] == "a clear photo of a thick dog"
    assert cell["beside"]["real"]["n"] == 100
    properties = {"contrast", "sharpness", "edge_density", "brightness", "near_black", "judge"}
    assert set(cell["preferences"]["quality"]) == set(found["preferences"]["mean"]["quality"]) == properties
    assert found["right"]["n_random"] == 24
    assert len([row for row in found["classes"]["dog"]["candidates"] if row["selected"]]) == 4
    assert (out / "selection.png").is_file()
    assert len(list(out.glob("*-dog-*.png"))) == 4
    assert "of the 8 best" in (said := capsys.readouterr().out)
    assert "by chance alone" in said


def test_select_without_real_images_or_a_judge(pets, clip, tmp_path):
    flags = ["--clip", clip, "--num_candidates", "4", "--top_k", "1", "--early_stopping", "--class_labels", "cat"]
    assert select_pets(pets, tmp_path / "judged", *flags, "--dataset", pets["data"], "--judge", pets["judge"]) == 0
    judged = json.loads((tmp_path / "judged" / "selection.json").read_text())["classes"]["cat"]["by_style"]["plain"]
    assert judged["right"]["random"] is None  # none was finished whatever it scored
    assert select_pets(pets, tmp_path, *flags) == 0
    cat = json.loads((tmp_path / "selection.json").read_text())["classes"]["cat"]
    assert cat["by_style"]["plain"]["beside"] is None
    assert [row["rank"] for row in cat["candidates"]] == [1, 2, None, None]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no CLIP model is embedded for dataset None; train one in minutes"),
        (["--clip", "nowhere"], "'nowhere' gives no CLIP model"),
        (["--top_k", "11"], "top_k is 11; valid: 1 to 10"),
        (["--good_prompts", "a sharp photo of {}"], "the CLIP model does not know 'sharp'"),
        (["--num_candidates", "0"], "num_candidates is 0"),
        (["--score_weights", "beauty:1"], "unknown score 'beauty'"),
        (["--score_weights", "class:much"], "score_weights class:much; valid: class:1 quality:0.5"),
        (["--good_prompts", "a good photo"], "templates with {} for the subject"),
        (["--dataset", "fashion_mnist_12k"], "draws the classes cat, dog"),
        (["--class_labels", "cow"], "unknown class 'cow'"),
        (["--styles", "thick:2"], "from 0 to 1"),
        (["--bad_prompts", "a very" + " very" * 40 + " blurry {}"], "tokens; valid: up to 32"),
    ],
)
def test_select_refuses(pets, clip, tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no retries where there is no network
    if flags and "nowhere" not in flags:
        flags = ["--clip", clip, *flags]
    assert select_pets(pets, tmp_path / "best", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "best").exists()


def test_two_processes_evaluate_as_one(pets, clip, tmp_path):
    flags = ["--num_images", "260", "--num_styled", "110", "--clip", clip]
    assert evaluate(pets, tmp_path / "one.json", *flags) == 0
    words = [pets["model"], "--dataset", pets["data"], "--judge", pets["judge"], "--output", str(tmp_path / "two.json")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [*launch, "-m", "hfdiff.cli", "evaluate", *words, "--num_inference_steps", "1", *flags]
    with (tmp_path / "output").open("w") as output:
        launched = subprocess.Popen(program, stdout=output, stderr=output)
    try:
        code = launched.wait(timeout=240)
    finally:
        launched.terminate()
    assert code == 0, (tmp_path / "output").read_text()
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["metrics"] for name in ("one", "two"))
    assert set(one) >= {name for name, row in METRICS.items() if row.default and not row.clip} | {"clip_score"}
    for name, result in one.items():
        # A value rounded to the other side, by another number of threads, moves one image in the order of contents.
        assert two[name]["value"] == pytest.approx(result["value"], rel=5e-3, abs=1e-4), name


@pytest.fixture
def run(pets, tmp_path) -> str:
    """A run's folder of that model, with samples and losses."""
    folder = tmp_path / "run"
    shutil.copytree(pets["model"], folder / "pipeline")
    (folder / "config.yaml").write_text(f"dataset: {pets['data']}\noutput_dir: {folder}\n")
    points = [{"images": i, "loss": 1 / i, "val_loss": None, "lr": 1e-3} for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (folder / "samples").mkdir()
    for count in (100, 200):
        make_image(count, (60, 50)).save(folder / "samples" / f"images-{count:09d}.png")
    return str(folder)


def show(pets: dict[str, str], model: str, out: object, *flags: str) -> int:
    short = ("--num_images", "2", "--num_inference_steps", "3")
    judges = ("--judge", pets["judge"], "--noised_judge", pets["noised_judge"])
    return hfdiff("show", model, *short, *judges, "--output_dir", str(out), *flags)


ALWAYS = {"forward.png", "forward_judge.png", "reverse.png", "recognition.png", "judge_scores.png"}
GRIDS = {"classes_and_styles.png", "style_strengths.png", "nearest.png"}


def test_show_writes_every_figure_with_its_text_and_numbers(pets, run, tmp_path, capsys):
    out = tmp_path / "out"
    assert show(pets, run, out, "--seed", "5") == 0
    records = json.loads((out / "show.json").read_text(), parse_constant=pytest.fail)
    assert set(records) == ALWAYS | GRIDS | {"losses.png", "evolution.webp"}
    assert {path.name for path in out.iterdir()} == {*records, "show.json"}
    for name, record in records.items():
        assert len(record["alt"]) > 40, name
        assert record["alt"].endswith("."), name
        assert Image.open(out / name).size[0] > 50
    found = records["recognition.png"]
    protocol = {"objective": "flow", "sampler": "dpmpp_2m", "num_inference_steps": 3, "num_images_per_class": 2}
    assert found.items() >= (protocol | {"seed": 5, "guidance_scale": 3.0}).items()
    for run in ("without guidance", "guidance 3"):
        for judged in ("x_t", "predicted_without_class"):
            assert [row["name"] for row in found[run][judged]["classes"]] == ["cat", "dog", "together"]
    assert records["evolution.webp"]["images_seen"] == [100, 200]
    assert sum(records["judge_scores.png"]["generated"]) == pytest.approx(1, abs=1e-2)
    assert "together" in capsys.readouterr().out


def test_show_leaves_out_what_does_not_apply(pets, run, tmp_path, capsys):
    out = tmp_path / "out"
    assert show(pets, pets["model"], out, "--dataset", pets["data"], "--guidance_scale", "1") == 0
    records = json.loads((out / "show.json").read_text())
    assert set(records) == ALWAYS | GRIDS
    assert records["reverse.png"]["guidance_scale"] == 1
    said = capsys.readouterr().out
    assert "losses.png left out: no run's metrics.jsonl" in said
    assert "evolution.webp left out" in said


def test_show_goes_on_where_a_runs_files_are_damaged(pets, run, tmp_path, capsys):
    out, folder = tmp_path / "out", tmp_path / "run"
    (folder / "metrics.jsonl").write_text('{"images": 1, "lo')
    (folder / "samples" / "images-000000200.png").write_bytes(b"no image")
    assert show(pets, f"{run}/pipeline", out) == 0
    assert set(json.loads((out / "show.json").read_text())) == ALWAYS | GRIDS
    said = capsys.readouterr().out
    assert "metrics.jsonl is damaged" in said
    assert "cannot identify image file" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("{model}",), "is no run's folder, which would name its dataset; give --dataset"),
        (("{run}", "--dataset", "fashion_mnist_12k"), "draws the classes cat, dog"),
        (("{run}", "--dataset", "nowhere/nothing/"), "unknown dataset 'nowhere/nothing/'"),
        (("{run}", "--num_images", "0"), "num_images is 0; valid: 1 to 10000"),
        (("{run}", "--num_inference_steps", "1"), "num_inference_steps is 1; valid: 2 to 1000"),
        (("{run}", "--seed", "-1"), "seed is -1; valid"),
        (("{run}", "--guidance_scale", "nan"), "guidance_scale nan; valid: -1000 to 1000"),
        (("{run}", "--autoguidance_scale", "2"), "autoguidance_scale 2.0 without a guide_unet; valid: 1"),
        (("{run}", "--sampler", "ddim"), "sampler 'ddim' does not go"),
        (("{run}/samples",), "holds no pipeline"),
    ],
)
def test_mistakes_in_show_are_one_line_and_write_nothing(pets, run, tmp_path, capsys, flags, message):
    assert show(pets, flags[0].format(run=run, model=pets["model"]), tmp_path / "out", *flags[1:]) == 2
    error = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "it/s" not in line)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


NAMES = ["-x", " lead", "caf\u0065\u0301", "new\nline", "\u732b", "x" * 240, "cat", "Cat"]


@pytest.fixture
def named(tmp_path) -> str:
    """A model whose classes are called what people call folders."""
    styles = {name: {"phrase": name, "group": None} for name in ("thick", "thin")}
    unet = tiny_unet(num_classes=len(NAMES))
    pipe = ClassStylePipeline(unet, DPMSolverMultistepScheduler(), dict(enumerate(NAMES)), styles)
    pipe.save_pretrained(tmp_path / "named")
    return str(tmp_path / "named")


def test_every_class_can_be_asked_for_and_has_a_file(named, tmp_path, capsys):
    words = ["--num_images", "1", "--num_inference_steps", "1", "--output_dir"]
    asked = ["-x", "lead", "caf\u00e9", "new\nline", "\u732b", "x" * 240, "cat", "Cat"]
    assert hfdiff("sample", named, *words, str(tmp_path / "all"), "--class_labels", *asked) == 0
    images = json.loads((tmp_path / "all" / "samples.json").read_text())["images"]
    assert [image["class"] for image in images] == NAMES
    assert len({image["file"] for image in images}) == len(NAMES)
    assert all((tmp_path / "all" / image["file"]).is_file() for image in images)
    assert hfdiff("sample", named, *words, str(tmp_path / "none"), "--class_labels", "CAT") == 2  # cat, or Cat?
    capsys.readouterr()
    assert hfdiff("sample", named, *words, str(tmp_path / "none"), "--class_labels", "\x1b[2J\u202ecat") == 2
    assert r"unknown class '\x1b[2J\u202ecat'" in capsys.readouterr().err


def test_control_characters_do_not_reach_the_terminal(capsys):
    print("\x1b[31m\u202e\x9b red\t\u732b", file=Printable(sys.stdout))
    assert capsys.readouterr().out == "\\x1b[31m\\u202e\\x9b red\t\u732b\n"


def test_plan_needs_no_hub_for_a_dataset_of_the_table(hub, monkeypatch, capsys):
    monkeypatch.setattr(hub, "fault", lambda method, path: 500)
    assert hfdiff("plan", "--dataset", "fashion_mnist", "--size", "tiny", "--batch_size", "4") == 0
    assert "GFLOPs an image forward" in capsys.readouterr().out


def test_a_known_dataset_that_the_hub_does_not_give_is_not_unknown(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hub, "fault", lambda method, path: 401)
    assert hfdiff("train", "--dataset", "cifar10", "--output_dir", str(tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert "dataset 'cifar10' is uoft-cs/cifar10 on the Hugging Face Hub, which could not be read" in said
    assert "did you mean" not in said
