"""The training program as a user runs it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SCRIPT, TINY_FLAGS, class_folders, files, full_data, lines, newest_tensors
from PIL import Image

import hfdiff.commands.train as train_command
import hfdiff.training.run as run_module
from hfdiff.cli import run_command
from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import load_pipeline
from hfdiff.models.objectives import make_objective
from hfdiff.models.sizes import SIZES
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.publish.sections import weights_kept
from hfdiff.training.checkpoint import list_checkpoints
from hfdiff.training.initialisation import check_init_from
from hfdiff.training.run_folder import saved_config
from hfdiff.training.signals import StopSignals

pytestmark = pytest.mark.slow


def test_a_run_leaves_what_the_design_says(start, tmp_path):
    run = tmp_path / "run"
    assert start("run", "--max_train_images", "80") == 0
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "metrics.jsonl", "training.json", "checkpoints", "samples", "losses.png", "pipeline"
    }  # fmt: skip
    points = lines(run)
    assert [point["images"] for point in points] == [16, 32, 40, 48, 64, 80]
    assert [point["images"] for point in points if point["val_loss"] is not None] == [40, 80]
    assert {"step", "images", "loss", "val_loss", "lr"} <= points[0].keys()
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-000000010", "step-000000008"]
    assert [path.name for path in (run / "samples").iterdir()] == ["images-000000080.png"]
    assert not list(run.rglob("*.bin")) + list(run.rglob("*.pt")) + list(run.rglob("*.pkl"))
    record = json.loads((run / "training.json").read_text())
    assert (record["images"], record["steps"], record["best_images"]) == (80, 10, 80)
    assert record["data"]["name"] == "data/"
    assert record["data"]["classes"] == {"cat": 14, "dog": 13}
    assert record["best_score"] == points[-1]["val_loss"]
    assert record["seconds"] > 0
    pipeline = load_pipeline(str(run))
    assert pipeline.class_names == ["cat", "dog"]
    assert pipeline.style_names == ["thick", "thin", "slanted"]
    assert start("run", "--max_train_images", "80") == 0  # finished: says so, and changes nothing
    assert lines(run) == points


def test_the_pipeline_holds_the_best_ema_weights(start, tmp_path):
    start("run", "--max_train_images", "80")
    run = tmp_path / "run"
    numbers = json.loads((list_checkpoints(run / "checkpoints")[0] / "state.json").read_text())
    losses = {point["images"]: point["val_loss"] for point in lines(run) if point["val_loss"] is not None}
    assert numbers["best_score"] == min(losses.values()) == losses[80]
    weights, ema_model = load_pipeline(str(run)).unet.state_dict(), newest_tensors(run)
    assert all(torch.equal(value, ema_model[f"ema/{name}"]) for name, value in weights.items())


def test_the_pipeline_holds_the_weights_whose_samples_are_nearest(start, tmp_path, monkeypatch):
    monkeypatch.setattr("hfdiff.evaluation.monitor.MOST", 520)  # real images: the fewest that do
    flags = (
        "--dataset",
        "fashion_mnist_12k",
        "--sample_images",
        "40",
        "--best_by",
        "frechet_judge",
        "--batch_size",
        "40",
    )
    assert start("run", "--max_train_images", "40", *flags) == 0
    watched = {point["images"]: point for point in lines(tmp_path / "run") if "frechet_judge" in point}
    assert list(watched) == [40]
    assert [point["quality_n"] for point in watched.values()] == [256]  # the least that the distance takes
    assert all(0 <= point["class_accuracy"] <= 1 for point in watched.values())
    numbers = json.loads((list_checkpoints(tmp_path / "run" / "checkpoints")[0] / "state.json").read_text())
    assert numbers["best_score"] == min(point["frechet_judge"] for point in watched.values())
    assert numbers["quality_n"] == 256
    assert (tmp_path / "run" / "pipeline").is_dir()


def test_no_judge_to_go_by(start, tmp_path):
    with pytest.raises(
        BadInput, match="best_by 'frechet_judge' needs a judge.*has none of such images; train one with"
    ):
        start("run", "--best_by", "frechet_judge")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("images", [24, pytest.param(40, marks=pytest.mark.long)])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(start, tmp_path, monkeypatch, images):
    """Killed after `images`: between two checkpoints, or in the middle of a validation interval."""
    flags = ("--max_train_images", "80", "--dropout", "0.1", "--gradient_accumulation_steps", "2", "--flip")
    flags += ("--ema_profiles", "0.05", "0.1", "--guide_share", "0.3")
    start("whole", *flags)

    class Killed(Exception):
        pass

    def after_step(run, step, *args, original=run_module.after_step):
        original(run, step, *args)
        if step.images == images:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "after_step", after_step)
        with pytest.raises(Killed):
            start("parts", *flags)
    start("parts", *flags)
    whole, parts = newest_tensors(tmp_path / "whole"), newest_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert {name.partition("/")[0] for name in whole} == {"unet", "ema", "profiles", "guide", "optimizer"}
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    for place in ("snapshots", "pipeline/guide_unet"):
        assert files(tmp_path / "whole" / place) == files(tmp_path / "parts" / place)


def test_a_longer_run_goes_on(start, tmp_path):
    start("run", "--max_train_images", "40", "--lr_schedule", "constant")
    start("run", "--max_train_images", "80", "--lr_schedule", "constant")
    start("whole", "--max_train_images", "80", "--lr_schedule", "constant")
    a, b = newest_tensors(tmp_path / "run"), newest_tensors(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_style_that_images_do_not_show_is_left_out_and_the_run_resumes(script, tmp_path, capsys):
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (16, 16), {"red": (200 + i, 0, 0), "blue": (0, 0, 200 + i)}[name]).save(
                tmp_path / "data" / name / f"{i}.png"
            )
    flags = ["--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), *TINY_FLAGS]
    for images in ("16", "32"):
        assert script["main"]([*flags, "--max_train_images", images, "--styles", "thick", "dark"]) == 0
    assert "left out, as hardly any image shows it: thick (seen in 0%)" in capsys.readouterr().out
    assert load_pipeline(str(tmp_path / "run")).style_names == ["dark"]
    with pytest.raises(BadInput, match="another configuration: styles"):
        script["main"]([*flags, "--max_train_images", "48", "--styles", "dark"])


def test_start_from_a_trained_model(start, tmp_path, script):
    start("old", "--max_train_images", "16", "--styles", "thick", "slanted")
    other = str(class_folders(tmp_path / "more", {"bird": 10, "dog": 10}))
    flags = ["--dataset", other, *TINY_FLAGS, "--init_from", str(tmp_path / "old"), "--learning_rate", "1e-12"]
    flags += ["--styles", "slanted", "dark", "--output_dir", str(tmp_path / "new"), "--patch_size", "1"]
    assert script["main"]([*flags, "--max_train_images", "16", "--weight_decay", "0"]) == 0
    old, new = (load_pipeline(str(tmp_path / name)).unet for name in ("old", "new"))
    assert new.config.patch_size == 4  # the shape is the trained model's
    rows_old, rows_new = old.class_embed.weight, new.class_embed.weight
    assert torch.allclose(rows_new[1], rows_old[1], atol=1e-6)  # dog
    assert torch.allclose(rows_new[0], rows_old[2], atol=1e-6)  # bird begins as any class
    columns_old, columns_new = old.style_embed[0].weight, new.style_embed[0].weight
    assert torch.allclose(columns_new[:, 0], columns_old[:, 1], atol=1e-6)  # slanted
    assert torch.allclose(columns_new[:, 2], columns_old[:, 2], atol=1e-6)  # "the styles are given"
    assert torch.allclose(new.conv_in.weight, old.conv_in.weight, atol=1e-6)
    assert script["main"]([*flags, "--max_train_images", "32", "--weight_decay", "0"]) == 0  # and resumes


def test_a_size_is_saved_as_what_it_means_and_resumes(script, folder, tmp_path):
    run = tmp_path / "run"
    flags = ["--dataset", folder, "--output_dir", str(run), "--size", "tiny", "--patch_size", "2", "--batch_size", "8"]
    flags += ["--mixed_precision", "no", "--sample_images", "10000", "--max_train_images"]
    script["main"]([*flags, "8"])
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: saved[key] for key in vars(SIZES["tiny"])} == {
        **{key: list(value) if isinstance(value, tuple) else value for key, value in vars(SIZES["tiny"]).items()},
        "patch_size": 2,
    }
    assert script["main"]([*flags, "16"]) == 0
    with pytest.raises(BadInput, match=r"size 'tiny' -> 'small'; block_out_channels \[16, 32\] -> \[64, 128\]"):
        script["main"]([*flags, "16", "--size", "small"])


def test_init_from_another_kind_of_images_is_refused(start, tmp_path):
    start("old", "--max_train_images", "16")
    colour = str(class_folders(tmp_path / "colour", {"cat": 10, "dog": 10}, mode="RGB"))
    with pytest.raises(BadInput, match="makes grey images, the dataset .* is colour"):
        start("new", "--init_from", str(tmp_path / "old"), "--dataset", colour)
    with pytest.raises(BadInput, match="its model predicts 'flow_prediction', objective 'epsilon' 'epsilon'"):
        start("new", "--init_from", str(tmp_path / "old"), "--objective", "epsilon")
    assert not (tmp_path / "new").exists()


def test_init_from_another_noise_schedule_names_the_one_wanted(tiny_config, table, pipeline):
    linear = make_objective(ObjectiveConfig(objective="epsilon", schedule="linear"))
    pipeline.register_modules(scheduler=linear.scheduler())
    with pytest.raises(BadInput, match="another than the one that objective 'epsilon' has with schedule 'cosine'"):
        check_init_from(pipeline, tiny_config(init_from="old", objective="epsilon"), table)


@pytest.mark.parametrize(
    "flags",
    [
        ("--objective", "epsilon"),
        ("--objective", "epsilon", "--schedule", "linear"),
        ("--conditioning", "concat", "--class_embedding", "one_hot_mlp"),
        ("--augment", "0.3"),
        ("--no-skip_connections", "--no-time_conditioning", "--gradient_checkpointing"),
        ("--styles",),
        ("--mixed_precision", "bf16"),
        ("--report_to", "tensorboard"),
    ],
    ids=" ".join,
)
def test_every_choice_trains_and_samples(start, tmp_path, flags):
    assert start("run", "--max_train_images", "16", *flags) == 0
    pipeline = load_pipeline(str(tmp_path / "run"))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(["dog"], num_inference_steps=2, output_type="pt").images
    assert torch.isfinite(images).all()


def test_a_loss_that_is_not_finite_saves_nothing(start, tmp_path):
    start("run", "--max_train_images", "16")
    before = newest_tensors(tmp_path / "run")
    with pytest.raises(TrainingFailed, match="not finite|loss is"):
        start("run", "--max_train_images", "800", "--resume", "auto", "--checkpointing_images", "8",
              "--max_minutes", "5", *_poison(tmp_path / "run"))  # fmt: skip
    assert all(torch.isfinite(value).all() for value in newest_tensors(tmp_path / "run").values())
    assert before.keys() == newest_tensors(tmp_path / "run").keys()


def _poison(run: Path) -> tuple[str, ...]:
    """Make the optimizer's second moments so small that the next step explodes, with a manifest that agrees."""
    from hfdiff.training.checkpoint import read_checkpoint, save_checkpoint

    newest = read_checkpoint(list_checkpoints(run / "checkpoints")[0])
    for name, value in newest.tensors["optimizer"].items():
        if name.endswith("exp_avg"):
            value.fill_(3e38)
        if name.endswith("exp_avg_sq"):
            value.zero_()
    save_checkpoint(run / "checkpoints", newest.tensors, newest.numbers, 5)
    return ()


@pytest.mark.full
@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_full_datasets_train_with_their_configuration(script, tmp_path, name):
    config = ROOT / "train_scripts" / "configs" / f"{name}.yaml"
    flags = ["--config", str(config), "--dataset", full_data(name), "--output_dir", str(tmp_path / "run")]
    small = "--block_out_channels 8 16 --down_block_types DownBlock2D DownBlock2D --attention_head_dim 8".split()
    small += ["--batch_size", "32", "--patch_size", "4"]
    assert script["main"]([*flags, *small, "--max_train_images", "320"]) == 0
    points = lines(tmp_path / "run")
    assert points[-1]["images"] == 320
    pipeline = load_pipeline(str(tmp_path / "run"))
    assert isinstance(pipeline, ClassStylePipeline)
    assert pipeline.clip_model.dtype == torch.float16
    assert pipeline.clip_model.config.half_seen == "second"


def program(*flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_a_run_inside_its_own_data_is_refused(script, folder):
    with pytest.raises(BadInput, match="lies inside the dataset"):
        script["main"](["--dataset", folder, "--output_dir", f"{folder}/run", *TINY_FLAGS])


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "data").mkdir()
    done = program("--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hfdiff: error: no images in the folder")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lerning_rate", "1"), "Perhaps you meant: --learning_rate"),
        (("--batch_size", "many"), "--batch_size.*'many'"),
        (("--mixed_precision", "fp16"), "'fp16' needs a GPU"),
        (("--styles", "thik"), "unknown style 'thik' .*did you mean 'thick'"),
        (("--styles", "warm"), "needs colour images"),
        (("--norm_num_groups", "3"), "not divisible by norm_num_groups 3"),
        (("--objective", "flw"), "'flw'"),
        (("--init_from", "no such model"), "unknown model 'no such model'"),
        (("--config", "absent.yaml"), "configuration 'absent.yaml' cannot be read"),
        (("--report_to", "wandb"), "'wandb' is not installed"),
        (("--output_dir", "/proc/x"), "output_dir '/proc/x' cannot be written"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_flags_are_named_and_nothing_is_written(start, tmp_path, flags, message):
    with pytest.raises(BadInput, match=message):
        start("run", *flags)
    assert not (tmp_path / "run").exists()


def test_a_signal_saves_and_the_rerun_ends_equal(folder, tmp_path, start):
    flags = ("--max_train_images", "400", "--checkpointing_images", "100000", "--validation_images", "200")
    start("whole", *flags)
    arguments = ["--dataset", folder, "--output_dir", str(tmp_path / "parts"), *TINY_FLAGS, *flags]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    metrics = tmp_path / "parts" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 143, output
    assert "the same command resumes" in output
    start("parts", *flags)
    whole, parts = newest_tensors(tmp_path / "whole"), newest_tensors(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_two_processes_learn_what_one_learns(folder, tmp_path, start):
    flags = ("--max_train_images", "64", "--logging_images", "8")
    start("one", *flags)
    arguments = ["--dataset", folder, "--output_dir", str(tmp_path / "two"), *TINY_FLAGS, *flags]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with (tmp_path / "output").open("w") as output:  # a file: a pipe would wait for a process that is left over
        launched = subprocess.Popen([*launch, str(SCRIPT), *arguments], stdout=output, stderr=output)
    try:
        code = launched.wait(timeout=240)
    finally:
        launched.terminate()  # the launcher ends its processes, the hung ones too
    assert code == 0, (tmp_path / "output").read_text()
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [point["loss"] for point in two] == pytest.approx([point["loss"] for point in one], rel=1e-4)
    assert two[-1]["val_loss"] == pytest.approx(one[-1]["val_loss"], rel=1e-3)


def test_a_finished_run_puts_right_what_was_taken(start, tmp_path, capsys):
    run = tmp_path / "run"
    start("run", "--max_train_images", "16")
    record = json.loads((run / "training.json").read_text())
    shutil.rmtree(run / "pipeline")
    (run / "training.json").unlink()
    assert start("run", "--max_train_images", "16") == 0
    assert "its pipeline is gone; the last EMA weights are saved" in capsys.readouterr().out
    assert load_pipeline(str(run)).class_names == ["cat", "dog"]
    again = json.loads((run / "training.json").read_text(), parse_constant=pytest.fail)  # JSON knows no infinity
    assert again["images"] == again["best_images"] == record["images"]
    assert again["best_score"] is None  # these are the last weights, whether or not they were the best
    assert weights_kept(again) == "EMA, at 16: the last"


def test_a_second_launch_on_a_new_folder_is_refused(start, tmp_path, monkeypatch):
    """The first has loaded its data, and not written anything yet."""

    def prepare_twice(config, locks, original=train_command.prepare):
        run = original(config, locks)
        assert not run.folder.path.exists()
        with pytest.raises(BadInput, match=f"is in use by process {os.getpid()} on"):
            original(config, contextlib.ExitStack())
        return run

    monkeypatch.setattr(train_command, "prepare", prepare_twice)
    assert start("run", "--max_train_images", "16") == 0
    assert (tmp_path / "run" / "pipeline").is_dir()


def test_an_ignored_signal_stays_ignored(accelerator):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(accelerator) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.received()
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received() == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_resumes_wherever_the_same_images_lie(start, folder, tmp_path, monkeypatch, capsys):
    assert start("run", "--max_train_images", "16") == 0
    monkeypatch.chdir(Path(folder).parent)
    moved = shutil.copytree(folder, tmp_path / "moved")
    for images, dataset in ((24, f"{folder}/"), (32, Path(folder).name), (40, str(moved))):
        assert start("run", "--max_train_images", str(images), "--dataset", dataset) == 0
    assert "resuming after 32 images" in capsys.readouterr().out
    (moved / "cat" / "0.png").unlink()
    with pytest.raises(BadInput, match="is another than that of the run in .*, or has changed since"):
        start("run", "--max_train_images", "48", "--dataset", str(moved))


def test_images_too_narrow_for_bf16_on_a_cpu_name_the_way_out(start, tmp_path):
    class_folders(tmp_path / "narrow", {"cat": 8, "dog": 8}, size=(3, 64))
    flags = ("--dataset", str(tmp_path / "narrow"), "--max_train_images", "8")
    with pytest.raises(BadInput, match="images of 64x3 in bf16 on a CPU.*; give --mixed_precision no"):
        start("run", *flags, "--mixed_precision", "bf16")
    assert start("run", *flags, "--mixed_precision", "no") == 0


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 - 1])
def test_a_large_seed_is_itself_in_every_command(start, tmp_path, monkeypatch, seed):
    given = ("--seed", str(seed))
    assert start("run", *given, "--max_train_images", "16") == 0
    assert saved_config(tmp_path / "run" / "config.yaml").seed == seed
    assert start("run", *given, "--max_train_images", "32") == 0
    (tmp_path / "seed.yaml").write_text(f"seed: {seed}\n")
    assert start("run", "--config", str(tmp_path / "seed.yaml"), "--max_train_images", "32") == 0
    with pytest.raises(BadInput, match=f"seed {seed} -> {seed - 1}"):
        start("run", "--seed", str(seed - 1), "--max_train_images", "32")
    drawn = []
    for number in (seed, seed, seed - 1):
        words = ["--num_images", "1", "--num_inference_steps", "2", "--seed", str(number)]
        assert run_command("sample", [str(tmp_path / "run"), "--output_dir", str(tmp_path / "images"), *words]) == 0
        record = json.loads((tmp_path / "images" / "samples.json").read_text())
        assert record["seed"] == number
        drawn.append((tmp_path / "images" / "grid.png").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]
