"""Real classes at tiny size, on real images from the embedded dataset."""

import atexit
import io
import json
import os
import runpy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from local_hub import LocalHub

HUB = LocalHub().serve()  # before the libraries are imported: they read its address once
HF_HOME = tempfile.mkdtemp(prefix="hfdiff-tests-")
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": HF_HOME}
os.environ.pop("HF_TOKEN", None)
os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # tiny tensors: a second thread only waits

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from PIL import Image
from safetensors.torch import load_file

from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.styles import STYLES
from hfdiff.data.table import ImageTable
from hfdiff.evaluation.judge_training import make_judge, save_judge, train_judge
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import make_pipeline
from hfdiff.models.objectives import make_objective
from hfdiff.models.unet import ClassStyleUNet2DModel
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.checkpoint import list_checkpoints
from hfdiff.training.checks import with_shape
from hfdiff.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train_scripts" / "train.py"
TINY_FLAGS = (
    "--block_out_channels 8 16 --norm_num_groups 4 --attention_head_dim 8 --patch_size 4 --batch_size 8 "
    "--mixed_precision no --logging_images 16 --validation_images 40 --sample_images 10000 --checkpointing_images 16"
).split()
SHARED_DATA = ROOT.parent / "shared" / "data"
TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "patch_size": 4,
    "batch_size": 8,
    "mixed_precision": "no",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--counts", action="store_true", help="say how many trials each file of tests was")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.getoption("counts"):
        passed = Counter(report.nodeid.partition("[")[0] for report in terminalreporter.getreports("passed"))
        terminalreporter.write_line("\n".join(f"{count:>5}  {name}" for name, count in sorted(passed.items())))


def full_data(name: str) -> str:
    """The folder of a full dataset."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder with the full datasets is absent")
    return str(SHARED_DATA / name)


@cache
def full_test(name: str) -> ImageTable:
    """The test images of a full dataset."""
    return load_test_data(full_data(name))


def letters(count: int) -> ImageTable:
    """b, d, p and q, each another's mirror image, in light noise."""
    b = torch.zeros(1, 12, 12)
    b[0, 1:11, 3] = b[0, 6, 3:9] = b[0, 10, 3:9] = b[0, 6:11, 8] = 1
    glyphs = torch.stack([b, b.flip(-1), b.flip(-2), b.flip(-1, -2)])
    labels = torch.arange(count) % 4
    noise = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    pixels = ((0.8 * glyphs[labels] + 0.1 * noise) * 255).byte()
    return ImageTable(pixels, labels, torch.empty(count, 0), ("b", "d", "p", "q"), (), "letters")


def near_black_dust(pixels: torch.Tensor, most: int, share: torch.Tensor | float, seed: int = 0) -> torch.Tensor:
    """Give a share of the near-black values of pixels (N, C, H, W) uint8, values of 1 to `most`."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(pixels.shape, generator=generator)
    specks = torch.randint(1, most + 1, pixels.shape, generator=generator, dtype=torch.uint8)
    return specks.where((pixels < 16) & (chance < torch.as_tensor(share).reshape(-1, 1, 1, 1)), pixels)


@pytest.fixture(scope="session")
def fashion() -> tuple[ImageTable, ImageTable]:
    """The embedded images: training and validation."""
    return load_training_data("fashion_mnist_12k")


@pytest.fixture
def table(fashion: tuple[ImageTable, ImageTable]) -> ImageTable:
    """Sixty training images of all classes."""
    train = fashion[0]
    return train.part(torch.arange(0, len(train), len(train) // 60)[:60])


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(**changes) -> TrainConfig:
        return with_shape(TrainConfig(**{"output_dir": str(tmp_path / "run"), **TINY, **changes}))

    return make


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """accelerate keeps its state in singletons; each test starts without."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)  # a wider fixture may have run a program, which takes all cores
    yield
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not PartialState._shared_state


@pytest.fixture
def hub(monkeypatch) -> LocalHub:
    """An empty Hub, with a token of the user ann."""
    HUB.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    return HUB


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def fp16_on_cpu() -> Accelerator:
    """accelerate's own fp16 path on CPU tensors, with torch's autocast and scaler, which it leaves off on a CPU."""
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu")
    return accelerator


def tiny_unet(**changes) -> ClassStyleUNet2DModel:
    torch.manual_seed(0)
    settings = {
        "sample_size": 28,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "num_classes": 3,
        "num_styles": 2,
    }
    return ClassStyleUNet2DModel(**{**settings, **changes}).eval()


@pytest.fixture
def pipeline() -> ClassStylePipeline:
    """Three classes, the styles thick and thin; untrained, with weights that depend on every condition."""
    pipe = ClassStylePipeline(
        unet=tiny_unet(),
        scheduler=make_objective(ObjectiveConfig()).scheduler(),
        id2label={0: "Sneaker", 1: "Bag", 2: "T-shirt/top"},
        styles={name: {"phrase": STYLES[name].phrase, "group": STYLES[name].group} for name in ("thick", "thin")},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_image(seed: int, size: tuple[int, int] = (12, 12), mode: str = "L") -> Image.Image:
    """A PIL image of random pixels, (width, height)."""
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path, counts: dict[str, int], mode: str = "L", size: tuple[int, int] = (12, 12)) -> Path:
    """root/CLASS/0.png, 1.png, ..."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            make_image(i, size, mode).save(root / name / f"{i}.png")
    return root


def metadata_folder(root: Path, rows: list[dict], jsonl: bool = True) -> Path:
    """root/0.png, 1.png, ... with one line of metadata each."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"file_name": f"{i}.png", **row} for i, row in enumerate(rows)]
    for i in range(len(rows)):
        make_image(i).save(root / f"{i}.png")
    if jsonl:
        (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
        (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT), run_name="train")


@pytest.fixture
def folder(tmp_path) -> str:
    """Thirty images of two classes."""
    return str(class_folders(tmp_path / "data", {"cat": 16, "dog": 14}))


@pytest.fixture
def start(script, folder, tmp_path):
    """Run the program in this process: start("run", "--flag", "value") -> exit code."""

    def run(name: str, *flags: str) -> int:
        return script["main"](["--dataset", folder, "--output_dir", str(tmp_path / name), *TINY_FLAGS, *flags])

    return run


def lines(run: Path) -> list[dict]:
    """metrics.jsonl without what the clock and the machine decide."""
    watched = ("images_per_second", "data_wait", "memory_gib")
    points = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in point.items() if key not in watched} for point in points]


def newest_tensors(run: Path) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(run / "checkpoints")[0]
    return {f"{file.stem}/{k}": v for file in newest.glob("*.safetensors") for k, v in load_file(file).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


CATS = ("cat", "dog")


@pytest.fixture(scope="session")
def pets(tmp_path_factory) -> dict[str, str]:
    """A model of two classes and two styles, images of those classes, and the judges of them."""
    tmp_path = tmp_path_factory.mktemp("pets")
    data = tmp_path / "pets"
    class_folders(data / "train", dict.fromkeys(CATS, 350), size=(28, 28))
    class_folders(data / "test", dict.fromkeys(CATS, 130), size=(28, 28))
    unet = tiny_unet(num_classes=2, num_styles=2)
    scheduler = make_objective(ObjectiveConfig()).scheduler()
    make_pipeline(unet, scheduler, CATS, (), ("thick", "slanted")).save_pretrained(tmp_path / "model")
    training, validation = load_training_data(str(data))
    for name, noised in (("judge", False), ("noised_judge", True)):
        judge = make_judge(training, widths=(4, 8, 8), half="first", noised=noised)
        list(train_judge(judge, training, validation, epochs=1 if noised else 6, batch_size=32))
        save_judge(judge, tmp_path / name, validation)
    return {"data": str(data), **{name: str(tmp_path / name) for name in ("model", "judge", "noised_judge")}}


@pytest.fixture(scope="session")
def clip(pets, tmp_path_factory) -> str:
    """The folder of a small CLIP of the pets, by the program that trains one."""
    folder = tmp_path_factory.mktemp("clip") / "clip"
    main = runpy.run_path(str(SCRIPT.with_name("train_clip.py")), run_name="script")["main"]
    flags = ["--dataset", pets["data"], "--output_dir", str(folder), "--epochs", "1", "--batch_size", "64"]
    assert main(flags) == 0
    with pytest.raises(BadInput, match="exists; give a new folder"):
        main(flags)
    return str(folder)
