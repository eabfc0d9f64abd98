"""Averages of the weights: against weighted sums of a recorded sequence, in float64."""

from pathlib import Path

import pytest
import torch
from conftest import newest_tensors
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from hfdiff.cli import run_command
from hfdiff.core.errors import BadInput
from hfdiff.models.loading import load_pipeline
from hfdiff.training.ema import PowerEMA, age_of_gamma, gamma_of_age, gamma_of_width
from hfdiff.training.posthoc_ema import drop_later, is_due, list_snapshots, reconstruct, save_snapshot
from hfdiff.training.progress import share_done
from hfdiff.training.session import open_session

STEPS = 1000
KEPT = (0.05, 0.1)


def weighted_mean(history: torch.Tensor, gamma: float) -> torch.Tensor:
    """The mean of weights (steps, N), step i = 1, 2, ... weighted by Gamma(i + gamma) / Gamma(i), about i^gamma."""
    steps = torch.arange(1, len(history) + 1, dtype=torch.float64)
    weights = (torch.lgamma(steps + gamma) - torch.lgamma(steps)).softmax(dim=0)
    return weights @ history


@pytest.fixture(scope="module")
def history() -> torch.Tensor:
    """Weights (steps, N) that wander far from zero, float64."""
    torch.manual_seed(0)
    return 10 + 0.1 * torch.randn(STEPS, 200, dtype=torch.float64).cumsum(dim=0)


@pytest.fixture(scope="module")
def snapshots(history, tmp_path_factory) -> Path:
    """Snapshots of two averages of that walk."""
    folder = tmp_path_factory.mktemp("snapshots")
    averages = {width: PowerEMA([torch.zeros_like(history[0])], gamma_of_width(width)) for width in KEPT}
    for step, weights in enumerate(history, start=1):
        for average in averages.values():
            average.update([weights], step)
        if is_due((step - 1) / STEPS, step / STEPS):
            save_snapshot(folder, step, {f"{width}/w": average.weights[0] for width, average in averages.items()})
    return folder


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_a_profile_has_the_width_asked_for(sigma_rel):
    gamma = gamma_of_width(sigma_rel)
    times = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    profile = times**gamma / (times**gamma).sum()
    mean = (profile * times).sum()
    assert (profile * (times - mean) ** 2).sum().sqrt().item() == pytest.approx(sigma_rel, rel=1e-4)
    assert 1 - mean.item() == pytest.approx(age_of_gamma(gamma), rel=1e-3)
    assert gamma_of_age(age_of_gamma(gamma)) == pytest.approx(gamma)


@pytest.mark.parametrize("gamma", [0.5, 6.94, 23])
def test_an_average_is_the_weighted_mean_of_all_steps(history, gamma):
    average = PowerEMA([torch.zeros_like(history[0])], gamma)
    for step, weights in enumerate(history[:100], start=1):
        average.update([weights], step)
    assert torch.allclose(average.weights[0], weighted_mean(history[:100], gamma), rtol=1e-12)


def test_snapshots_are_few_and_spread_over_the_run(snapshots):
    assert list(list_snapshots(snapshots)) == [-(-STEPS * i // 16) for i in range(1, 17)]


@pytest.mark.parametrize("sigma_rel", [0.04, 0.05, 0.06, 0.07, 0.085, 0.1, 0.15])
def test_two_averages_give_those_of_other_lengths(history, snapshots, sigma_rel):
    found, wanted = reconstruct(snapshots, sigma_rel), weighted_mean(history, gamma_of_width(sigma_rel))
    off = (found.weights["w"].double() - wanted).norm() / (wanted - history[-1]).norm()
    assert off < (1e-6 if sigma_rel in KEPT else 3e-3)
    assert found.error < (1e-6 if sigma_rel in KEPT else 0.012)
    assert (found.step, found.num_snapshots) == (STEPS, 16)


def test_a_length_that_snapshots_cannot_give_is_named(snapshots, tmp_path):
    with pytest.raises(BadInput, match="sigma_rel is 0.5; valid: 0.01 to 0.25"):
        reconstruct(snapshots, 0.5)
    with pytest.raises(
        BadInput, match=r"0.02 is too far .*16 snapshots of sigma_rel 0.05, 0.1.*met to 1\d%; valid: to 10%"
    ):
        reconstruct(snapshots, 0.02)
    with pytest.raises(BadInput, match="no snapshots of EMA weights in .*--ema_profiles"):
        reconstruct(tmp_path, 0.07)


def test_a_damaged_snapshot_is_named(snapshots, tmp_path):
    for path in snapshots.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = tmp_path / "step-000000063.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(BadInput, match="step-000000063.safetensors cannot be read .*; delete it"):
        reconstruct(tmp_path, 0.07)
    first.unlink()
    assert reconstruct(tmp_path, 0.07).error < 0.01
    save_snapshot(tmp_path, 63, {"0.05/other": torch.zeros(1)})
    with pytest.raises(BadInput, match="are not all of one run"):
        reconstruct(tmp_path, 0.07)
    drop_later(tmp_path, 125)
    assert list(list_snapshots(tmp_path)) == [63, 125]


def test_how_much_of_a_run_is_done_by_images_or_the_clock(tiny_config, table, accelerator):
    config = tiny_config(max_train_images=80, max_minutes=10.0)
    state = open_session(config, (table, table), accelerator).state
    state.step, state.seconds = 5, 60.0
    assert share_done(config, state) == 0.5
    state.seconds = 450.0
    assert share_done(config, state) == 0.75
    state.seconds = 1e4
    assert share_done(config, state) == 1


@pytest.mark.slow
def test_a_run_keeps_an_early_ema_that_guides_its_samples(start, tmp_path):
    flags = ("--guide_share", "0.3", "--checkpointing_images", "8", "--keep_checkpoints", "99")
    assert start("run", "--max_train_images", "80", "--learning_rate", "0.1", *flags) == 0
    early = load_file(tmp_path / "run" / "checkpoints" / "step-000000003" / "ema.safetensors")
    folder = str(tmp_path / "run" / "pipeline")
    for pipeline in (load_pipeline(folder), DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)):
        assert pipeline.guide_unet.state_dict().keys() == early.keys()
        assert all(torch.equal(value, early[name]) for name, value in pipeline.guide_unet.state_dict().items())
        pipeline.set_progress_bar_config(disable=True)
        plain, guided = (
            pipeline(
                ["dog"],
                num_inference_steps=2,
                generator=torch.manual_seed(0),
                output_type="pt",
                autoguidance_scale=scale,
            ).images
            for scale in (1, 2)
        )
        assert torch.isfinite(guided).all()
        assert not torch.equal(plain, guided)


@pytest.mark.slow
def test_a_run_gives_pipelines_of_other_ema_lengths(start, tmp_path):
    share = age_of_gamma(gamma_of_width(0.07))  # the average that is to be found is the run's own
    flags = ("--max_train_images", "256", "--learning_rate", "0.01", "--checkpointing_images", "1000")
    assert start("run", *flags, "--ema_profiles", "0.05", "0.1", "--ema_share", str(share)) == 0
    assert len(list_snapshots(tmp_path / "run" / "snapshots")) == 16
    kept, found = newest_tensors(tmp_path / "run"), {}
    for width in (0.05, 0.07):
        words = ["--sigma_rel", str(width), "--output_dir", str(tmp_path / f"{width}")]
        assert run_command("ema", [str(tmp_path / "run"), *words]) == 0
        found[width] = load_pipeline(str(tmp_path / f"{width}")).unet.state_dict()
    assert all(torch.allclose(value, kept[f"profiles/0.05/{name}"], atol=1e-6) for name, value in found[0.05].items())

    def distance(width: float) -> float:
        return sum((value - kept[f"ema/{name}"]).square().sum().item() for name, value in found[width].items()) ** 0.5

    assert distance(0.07) < 0.02 * distance(0.05)
    assert f"ema_share: {share}" in (tmp_path / "0.07" / "config.yaml").read_text()


@pytest.mark.slow
def test_what_a_short_run_lacks_is_named(start, pipeline, tmp_path, capsys):
    assert start("run", "--max_train_images", "16", "--guide_share", "0.9") == 0
    assert "warning: its weights, of 16 images, are no later than those to guide them, of 16" in capsys.readouterr().out
    pipeline.save_pretrained(tmp_path / "model")
    for model, message in (
        ("run", "no snapshots"),
        ("model", "a pipeline without its run"),
        ("no", "is no run's fold"),
    ):
        with pytest.raises(BadInput, match=message):
            run_command("ema", [str(tmp_path / model), "--sigma_rel", "0.07", "--output_dir", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_whole_snapshots(start, tmp_path, monkeypatch):
    flags = ("--max_train_images", "80", "--ema_profiles", "0.05", "0.1")

    def full(folder, step, tensors, original=save_snapshot):
        if step == 5:
            (folder / ".hfdiff-half").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(folder, step, tensors)

    with monkeypatch.context() as patched:
        patched.setattr("hfdiff.training.run.save_snapshot", full)
        with pytest.raises(OSError, match="No space left"):
            start("run", *flags)
    assert list(list_snapshots(tmp_path / "run" / "snapshots")) == [1, 2, 3, 4]
    assert start("run", *flags) == 0
    assert {path.name for path in (tmp_path / "run" / "snapshots").iterdir()} == {
        f"step-{step:09d}.safetensors" for step in range(1, 11)
    }
