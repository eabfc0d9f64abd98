"""Checkpoints: complete or absent, verified, rotated only when the new one is safe."""

import errno
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from hfdiff.core.errors import BadInput
from hfdiff.core.files import recover_folder, write_folder
from hfdiff.models.loading import load_pipeline
from hfdiff.training.checkpoint import (
    check_resume,
    check_same_data,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    recover_run,
    save_checkpoint,
)
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import RunFolder, save_config


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    weights = {"a": torch.full((50, 3), value)}
    return {"unet": weights, "ema": weights, "optimizer": {"a/step": torch.tensor(value)}}


def save(root: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(root / "checkpoints", tensors(step), {"step": step, "data": "d"}, keep)


def test_what_is_saved_is_read_back(tmp_path):
    read = read_checkpoint(save(tmp_path, 7))
    assert read.numbers == {"step": 7, "data": "d"}
    for group, named in tensors(7).items():
        assert all(torch.equal(value, read.tensors[group][name]) for name, value in named.items())
    assert {path.suffix for path in read.path.iterdir()} == {".safetensors", ".json"}
    assert all(path.stat().st_mode & 0o044 for path in read.path.iterdir())


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-000000005", "step-000000004"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("name", ["unet.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "gone", *(f"flipped {i}" for i in range(10))])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(tmp_path, name, damage):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage.startswith("flipped"):
        draw = random.Random(damage)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
    else:
        file.unlink()
    warnings = []
    assert newest_checkpoint(RunFolder(tmp_path), warnings.append).numbers["step"] == 1
    assert len(warnings) == 1
    assert "step-000000002 is damaged" in warnings[0]


def test_steps_after_the_one_resumed_from_give_way(tmp_path):
    for step in (1, 3):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-000000003" / "unet.safetensors").unlink()
    save(tmp_path, 2, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-000000002"]


def test_never_silently_from_zero(tmp_path):
    assert newest_checkpoint(RunFolder(tmp_path), print) is None
    (save(tmp_path, 1) / "unet.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="no usable checkpoint left in .*: all 1 are damaged"):
        newest_checkpoint(RunFolder(tmp_path), lambda _: None)


def test_checkpoints_that_are_gone_are_no_new_start(tmp_path):
    run = RunFolder(tmp_path)
    save(tmp_path, 1)
    run.record.write_text("{}")
    shutil.rmtree(run.checkpoints)
    with pytest.raises(BadInput, match="the checkpoints of the run in .* are gone"):
        newest_checkpoint(run, print)


def test_a_users_own_copies_are_left_alone(tmp_path):
    mine = Path(shutil.copytree(save(tmp_path, 1), tmp_path / "checkpoints" / "step-000000001.keep"))
    (tmp_path / "checkpoints" / "step-notes.txt").touch()
    save(tmp_path, 2, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-000000002"]
    assert (mine / "unet.safetensors").is_file()


def test_what_rotation_left_half_deleted_is_no_checkpoint(tmp_path):
    save(tmp_path, 2)
    half = tmp_path / "checkpoints" / ".step-000000001.gone"
    half.mkdir()
    assert newest_checkpoint(RunFolder(tmp_path), print).numbers["step"] == 2
    assert half.exists()  # who only looks changes nothing
    recover_run(RunFolder(tmp_path))
    assert not half.exists()


def test_an_empty_configuration_is_no_default(tmp_path, tiny_config):
    run = RunFolder(tmp_path / "run")
    save(run.path, 1)
    run.config.touch()
    with pytest.raises(BadInput, match="config.yaml is empty"):
        check_resume(run, tiny_config())


def test_a_full_disk_leaves_the_old_untouched(tmp_path, monkeypatch):
    save(tmp_path, 1, keep=1)

    def full(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hfdiff.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
    assert newest_checkpoint(RunFolder(tmp_path), print).numbers["step"] == 1


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "pipeline"
    write_folder(target, lambda folder: (folder / "a").write_text("old"))
    with pytest.raises(RuntimeError):
        write_folder(target, _fail)
    assert (target / "a").read_text() == "old"
    write_folder(target, lambda folder: (folder / "a").write_text("new"))
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def _fail(folder: Path) -> None:
    (folder / "a").write_text("half")
    raise RuntimeError("stopped while writing")


def test_a_crash_between_the_renames_is_mended(tmp_path):
    target = tmp_path / "pipeline"
    write_folder(target, lambda folder: (folder / "a").write_text("old"))
    target.rename(tmp_path / ".pipeline.old")
    recover_folder(target)
    assert (target / "a").read_text() == "old"


def begun(config: TrainConfig) -> RunFolder:
    """The folder of a run that has saved a checkpoint."""
    run = RunFolder(Path(config.output_dir))
    save_config(run, config)
    save(run.path, 1)
    return run


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 4),
        ("seed", 1),
        ("learning_rate", 0.5),
        ("block_out_channels", (16, 16)),
        ("styles", ("thick",)),
        ("objective", "epsilon"),
        ("drop_both", 0.2),
        ("ema_share", 0.2),
        ("resolution", 16),
        ("weight_decay", 0.5),
        ("dropout", 0.5),
        ("gradient_accumulation_steps", 2),
        ("conditioning", "concat"),
        ("best_by", "frechet_judge"),
    ],
)
def test_another_configuration_is_refused_by_name(tiny_config, key, value):
    config = tiny_config()
    run = begun(config)
    assert check_resume(run, config) == config
    with pytest.raises(BadInput, match=f"another configuration: {key} "):
        check_resume(run, tiny_config(**{key: value}))


def test_a_run_that_saved_nothing_is_replaced(tiny_config):
    config = tiny_config()
    run = RunFolder(Path(config.output_dir))
    save_config(run, config)
    assert check_resume(run, tiny_config(seed=1)) == tiny_config(seed=1)


def test_length_and_intervals_may_change(tiny_config):
    config = tiny_config()
    run = begun(config)
    longer = tiny_config(max_train_images=10**7, max_minutes=3.0, checkpointing_images=5, sample_images=5)
    assert check_resume(run, longer) == longer


def test_a_shorter_length_is_refused(tiny_config):
    begun(tiny_config(max_train_images=100))
    with pytest.raises(BadInput, match="max_train_images 100 -> 50 .only longer is possible"):
        check_resume(RunFolder(Path(tiny_config().output_dir)), tiny_config(max_train_images=50))


def test_folders_that_are_not_to_be_overwritten(tiny_config):
    config = tiny_config()
    run = RunFolder(Path(config.output_dir))
    run.path.mkdir()
    (run.path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds something that is no run"):
        check_resume(run, config)
    begun(config)
    with pytest.raises(BadInput, match="holds a run, and resume is 'never'"):
        check_resume(run, tiny_config(resume="never"))


def test_other_images_are_refused(tiny_config):
    check_same_data({"data": "abc"}, "abc", tiny_config())
    with pytest.raises(BadInput, match="has changed since .* abc -> def"):
        check_same_data({"data": "abc"}, "def", tiny_config())


def test_models_that_cannot_be_loaded(pipeline, tmp_path):
    with pytest.raises(BadInput, match="holds no pipeline"):
        load_pipeline(str(tmp_path))
    pipeline.save_pretrained(tmp_path / "broken")
    scheduler = tmp_path / "broken" / "scheduler" / "scheduler_config.json"
    saved = scheduler.read_text()
    scheduler.write_text(json.dumps(json.loads(saved) | {"prediction_type": "foo"}))
    with pytest.raises(BadInput, match="broken cannot be loaded: unknown prediction_type 'foo'; valid: epsilon, v_"):
        load_pipeline(str(tmp_path / "broken"))
    scheduler.write_text(saved)
    (tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="broken cannot be loaded"):
        load_pipeline(str(tmp_path / "broken"))
    index = tmp_path / "broken" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()))[:40])
    with pytest.raises(BadInput, match="broken cannot be loaded"):
        load_pipeline(str(tmp_path / "broken"))
