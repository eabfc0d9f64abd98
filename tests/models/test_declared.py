"""Configurations of strangers that declare what their files do not hold: one line, before memory is taken."""

import json
import resource
import shutil
from pathlib import Path

import pytest

from hfdiff.core.errors import BadInput
from hfdiff.data.registry import ASSETS
from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.judge import load_judge
from hfdiff.models.loading import export_pipeline, load_pipeline

HOSTILE = [
    ("unet/config.json", "layers_per_block", 1_000_000, "says layers_per_block 1000000; valid: 0 to"),
    ("unet/config.json", "layers_per_block", -1, "says layers_per_block -1"),
    ("unet/config.json", "num_classes", 10**9, "declares"),
    ("unet/config.json", "num_classes", -5, ""),
    ("unet/config.json", "num_styles", 10**8, "declares"),
    ("unet/config.json", "norm_num_groups", 0, ""),
    ("unet/config.json", "block_out_channels", [2**20, 2**20], "declares"),
    ("unet/config.json", "in_channels", 10**9, ""),
    ("unet/config.json", "sample_size", 10**6, "says sample_size 1000000; valid: 0 to 1024"),
    ("unet/config.json", "sample_size", [28, 10**6], "says sample_size 1000000"),
    ("unet/config.json", "time_embedding_dim", 10**7, "declares"),
    ("unet/config.json", "patch_size", 0, ""),
    ("scheduler/scheduler_config.json", "num_train_timesteps", 10**10, "says num_train_timesteps 10000000000"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", -1000, "says num_train_timesteps -1000"),
]


def change(file: Path, key: str, value: object) -> None:
    """Set a key wherever it stands."""
    config = json.loads(file.read_text())
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in [part for part in parts if key in part] or [config]:
        part[key] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def limited_memory():
    """Four GiB more than there are: what takes them fails, instead of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(("file", "key", "value", "said"), HOSTILE)
def test_a_pipeline_that_declares_too_much_is_refused(pipeline, tmp_path, limited_memory, file, key, value, said):
    export_pipeline(pipeline, tmp_path / "model")
    change(tmp_path / "model" / file, key, value)
    with pytest.raises(BadInput, match=f"cannot be loaded: .*{said}"):
        load_pipeline(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "num_hidden_layers", 1_000_000),
        ("config.json", "hidden_size", 2**22),
        ("config.json", "image_size", 10**7),
        ("config.json", "vocab_size", 10**9),
        ("config.json", "max_position_embeddings", 10**10),
        ("processor_config.json", "height", 10**6),
    ],
)
def test_a_clip_that_declares_too_much_is_refused(tmp_path, limited_memory, file, key, value):
    shutil.copytree(ASSETS / "clip_fashion_mnist", tmp_path / "clip")
    change(tmp_path / "clip" / file, key, value)
    if file == "processor_config.json":
        text = (tmp_path / "clip" / file).read_text()
        (tmp_path / "clip" / file).write_text(text.replace('"height": 28', f'"height": {value}'))
    with pytest.raises(BadInput, match="gives no CLIP model"):
        load_clip(str(tmp_path / "clip"))


@pytest.mark.parametrize(
    ("key", "value"), [("widths", [2**20] * 3), ("channels", 10**9), ("class_names", ["a"] * 10**6)]
)
def test_a_judge_that_declares_too_much_is_refused(tmp_path, limited_memory, key, value):
    shutil.copytree(ASSETS / "judge_fashion_mnist", tmp_path / "judge")
    change(tmp_path / "judge" / "config.json", key, value)
    with pytest.raises(BadInput, match="holds no judge: .*declares"):
        load_judge(str(tmp_path / "judge"))
