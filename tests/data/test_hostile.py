"""Untrusted folders: none of their code runs, no pickle is read, and nothing outside them is."""

import contextlib
import json
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import class_folders, make_image, png
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.data.registry import ASSETS
from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.clip_training import make_clip, measure_clip, save_clip
from hfdiff.evaluation.judge import load_judge
from hfdiff.evaluation.judge_training import make_judge, save_judge
from hfdiff.models.loading import load_pipeline
from hfdiff.training.checkpoint import newest_checkpoint, save_checkpoint
from hfdiff.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

EVIL = """
from pathlib import Path
Path({canary!r}).touch()
from diffusers import DiffusionPipeline, ModelMixin, ConfigMixin, SchedulerMixin
class Evil(ModelMixin, ConfigMixin, SchedulerMixin):
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        Path({canary!r}).touch()
class EvilPipeline(DiffusionPipeline):
    pass
"""


class Canary:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(pipeline, fashion, tmp_path) -> Path:
    """A pipeline with all that one can carry, and code in every part of it."""
    clip = make_clip(fashion[0])
    pipeline.register_modules(clip_model=clip.model, clip_processor=clip.processor)
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def plant(folder: Path, canary: Path) -> None:
    """Code beside every component, under every name that a library looks for."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in ("evil", "pipeline", "modeling", "unet", "class_style", "None", "__init__"):
            (place / f"{name}.py").write_text(EVIL.format(canary=str(canary)))


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


INDEXES = {
    "code beside all that was saved": {},
    "a class of the folder (CVE-2026-44513)": {"_class_name": ["evil", "EvilPipeline"]},
    "a component of the folder (CVE-2026-44513)": {"unet": ["evil", "Evil"]},
    "a scheduler of the folder": {"scheduler": ["evil", "Evil"]},
    "a CLIP of the folder": {"clip_model": ["evil", "Evil"]},
    "a processor of the folder": {"clip_processor": ["evil", "Evil"]},
    "a guide of the folder": {"guide_unet": ["evil", "Evil"]},
    "a component that nobody asked for": {"evil": ["evil", "Evil"]},
    "no library": {"unet": [None, "Evil"]},
    "another pipeline by name": {"_class_name": "EvilPipeline", "custom_pipeline": "evil"},
    "a module of the system": {"unet": ["os", "system"]},
    "a module that is a path": {"scheduler": ["../evil", "Evil"]},
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_no_code_of_a_folder_runs(folder, canary, index, monkeypatch):
    assert load_pipeline(str(folder)).clip_model is not None  # as it was saved
    plant(folder, canary)
    change(folder / "model_index.json", **index)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to "do you wish to run the custom code?"
    with contextlib.suppress(BadInput):
        load_pipeline(str(folder))
    assert not canary.exists()


def test_the_same_code_runs_where_it_is_trusted(folder, canary):
    plant(folder, canary)
    change(folder / "model_index.json", _class_name=["evil", "EvilPipeline"])
    with contextlib.suppress(Exception):
        DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    assert canary.exists()


@pytest.mark.parametrize("part", ["clip_model", "clip_processor"])
def test_no_code_of_a_clip_runs(folder, canary, part, monkeypatch):
    """`auto_map` is how transformers names code in a folder."""
    plant(folder, canary)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    named = dict.fromkeys(("AutoModel", "AutoConfig", "AutoProcessor"), "evil.Evil")
    named["AutoTokenizer"] = ["evil.Evil", None]
    for file in (folder / part).glob("*.json"):
        if file.name != "tokenizer.json":
            change(file, auto_map=named, trust_remote_code=True)
    if part == "clip_model":
        change(folder / part / "config.json", model_type="evil", _attn_implementation_internal="evil/evil")
    with contextlib.suppress(BadInput):
        load_pipeline(str(folder))
    shutil.copytree(folder / "clip_processor", folder / "clip_model", dirs_exist_ok=True)
    with contextlib.suppress(BadInput):
        load_clip(str(folder / "clip_model"))
    assert not canary.exists()


PICKLES = (
    "pytorch_model.bin diffusion_pytorch_model.bin model.pt optimizer.bin optimizer.pt scheduler.bin scaler.pt "
    "random_states_0.pkl custom_checkpoint_0.pkl state.pkl"
).split()


def pickles(folder: Path, canary: Path) -> None:
    """A pickle under every name that a library of the field reads one from."""
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for name in PICKLES:
            (place / name).write_bytes(pickle.dumps(Canary(canary)))


def small_run(root: Path) -> tuple[RunFolder, Path]:
    """A run's folder with one checkpoint."""
    run, weights = RunFolder(root / "run"), {"a": torch.ones(3)}
    groups = {"unet": weights, "ema": weights, "optimizer": weights}
    return run, save_checkpoint(run.checkpoints, groups, {"step": 1, "data": "d"}, 1)


@pytest.mark.parametrize("gone", [False, True], ids=["beside safetensors", "in their place"])
def test_no_pickle_is_read(folder, fashion, tmp_path, canary, gone):
    table = fashion[0].part(slice(0, 40))
    save_judge(make_judge(table), tmp_path / "judge", table)
    clip = make_clip(table)
    save_clip(clip, tmp_path / "clip", table, "second", measure_clip(clip, table))
    run, _ = small_run(tmp_path)
    places = {
        folder: lambda: load_pipeline(str(folder)),
        tmp_path / "judge": lambda: load_judge(str(tmp_path / "judge")),
        tmp_path / "clip": lambda: load_clip(str(tmp_path / "clip")),
        run.path: lambda: newest_checkpoint(run, lambda text: None),
    }
    for place, load in places.items():
        pickles(place, canary)
        for file in place.rglob("*.safetensors") if gone else ():
            file.unlink()
        if gone:
            with pytest.raises(BadInput):
                load()
        else:
            load()
        assert not canary.exists()
    with pickle.loads(pickle.dumps(Canary(canary))):  # the canary sings, where it is read
        assert canary.exists()


def test_a_listed_file_outside_a_checkpoint_is_not_taken(tmp_path):
    run, path = small_run(tmp_path)
    hashes = json.loads((path / "manifest.json").read_text())
    (path / "unet.safetensors").rename(tmp_path / "unet.safetensors")
    hashes["../../../unet.safetensors"] = hashes.pop("unet.safetensors")
    (path / "manifest.json").write_text(json.dumps(hashes))
    with pytest.raises(BadInput, match="no usable checkpoint"):
        newest_checkpoint(run, lambda text: None)


def test_metadata_does_not_lead_out_of_the_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    Image.new("L", (8, 8), 77).save(secret)
    for i in range(4):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    rows = [*(f"{i}.png,cat" for i in range(4)), "../secret.png,cat"]
    (folder / "metadata.csv").write_text("\n".join(["file_name,class", *rows]) + "\n")
    with pytest.raises(BadInput):
        load_training_data(str(folder))
    (folder / "metadata.csv").write_text("\n".join(["file_name,class", *rows[:4], f"{secret},cat"]) + "\n")
    with pytest.raises(BadInput):
        load_training_data(str(folder))


def test_a_link_out_of_the_folder_is_named(tmp_path):
    folder = class_folders(tmp_path / "data", {"cat": 6, "dog": 6})
    secret = tmp_path / "secret.png"
    Image.new("L", (12, 12), 77).save(secret)
    (folder / "cat" / "link.png").symlink_to(secret)
    with pytest.raises(BadInput, match=r"link\.png.* leads out of the folder"):
        load_training_data(str(folder))


def test_rows_of_parquet_do_not_lead_out_of_the_folder(tmp_path):
    """A cell may hold a path instead of an image."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(make_image(0)))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = [{"bytes": png(make_image(i)), "path": None} for i in range(5)] + [{"bytes": None, "path": str(secret)}]
    table = pa.table({"image": cells, "label": [i % 2 for i in range(6)]})
    (tmp_path / "data").mkdir()
    pq.write_table(
        datasets.Dataset(table).cast(features).data.table.replace_schema_metadata(features.arrow_schema.metadata),
        tmp_path / "data" / "train.parquet",
    )
    with pytest.raises(BadInput, match="names '.*secret.png', which lies outside the dataset"):
        load_training_data(str(tmp_path / "data"))


@pytest.mark.parametrize("path", ["/etc/*.parquet", "../other/*.parquet", "hf://datasets/a/b/*.parquet", "file:/etc/x"])
@pytest.mark.parametrize("kind", ["README.md", "README.md in CRLF", "README.md in quotes", ".huggingface.yaml"])
def test_no_configuration_leads_out_of_the_folder(tmp_path, path, kind):
    (tmp_path / "data").mkdir()
    shutil.copy(ASSETS / "fashion_mnist_12k" / "train.parquet", tmp_path / "data")
    head = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": path}]}]}
    text = yaml.safe_dump(head)
    if kind.endswith("quotes"):
        text = f'pretty_name: "a\n---x"\n{text}'  # which ends the head for who looks for dashes
    if kind.startswith("README"):
        text = f"---\n{text}---\n"
    text = text.replace("\n", "\r\n") if kind.endswith("CRLF") else text
    (tmp_path / "data" / kind.split()[0]).write_bytes(text.encode())
    with pytest.raises(BadInput, match="names data outside the folder|cannot be read"):
        load_training_data(str(tmp_path / "data"))


def test_a_list_of_images_is_no_style_and_not_opened(tmp_path):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    features["more"] = datasets.List(datasets.Image())
    rows = {"image": [{"bytes": png(make_image(i)), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    rows["more"] = [[{"bytes": None, "path": "/etc/hostname"}]] * 4
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    (tmp_path / "data").mkdir()
    pq.write_table(data.data.table, tmp_path / "data" / "train.parquet")
    train, _ = load_training_data(str(tmp_path / "data"))
    assert train.style_names == ()


def test_a_link_to_itself_is_named(tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 2})
    (root / "cat" / "loop.png").symlink_to(root / "cat" / "loop.png")
    with pytest.raises(BadInput, match="loop.png is a link"):
        load_training_data(str(root))


def bomb(side: int) -> bytes:
    """A PNG of side x side white or black pixels, all black: small as a file, a byte for each pixel when decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack = zlib.compressobj(9)
    rows = b"".join([*(pack.compress(bytes(1 + side // 8)) for _ in range(side)), pack.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb_takes_no_memory(tmp_path):
    root = class_folders(tmp_path / "data", {"cat": 4, "dog": 4})
    (root / "cat" / "0.png").write_bytes(bomb(24_000))  # 576 MB in a file of 70 kB
    script = f"""
import resource
from hfdiff.data.loading import load_training_data
from hfdiff.data.registry import ASSETS
from hfdiff.core.errors import BadInput
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_training_data("fashion_mnist_12k")
before = peak()
try:
    load_training_data({str(root)!r})
except BadInput as error:
    print(error)
print((peak() - before) // 1024)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    message, grown = said.splitlines()
    assert "pixels" in message
    assert int(grown) < 100, said  # MiB


def test_weights_that_are_not_finite_are_refused_wherever_they_are(folder, fashion, tmp_path):
    table = fashion[0].part(slice(0, 40))
    save_judge(make_judge(table), tmp_path / "judge", table)
    clip = make_clip(table)
    save_clip(clip, tmp_path / "clip", table, "second", measure_clip(clip, table))
    for place, load in (("judge", load_judge), ("clip", load_clip)):
        (file,) = (tmp_path / place).glob("*.safetensors")
        weights = load_file(file)
        name = next(name for name, value in weights.items() if value.is_floating_point() and value.ndim > 1)
        weights[name].flatten()[0] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(BadInput, match=f"its weights {name} are missing or not finite"):
            load(str(tmp_path / place))
