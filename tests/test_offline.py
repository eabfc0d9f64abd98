"""Whatever needs no Hub reaches for none: every command on local models and data, watched in its own process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import CATS, TINY_FLAGS, class_folders

from hfdiff.cli import COMMANDS

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("connections.py")
FEW_STEPS = "--guidance_scale 1 --num_inference_steps 2"
SHORT = f"{' '.join(TINY_FLAGS)} --max_train_images"
JUDGED = f"--judge {{out}}/judge {FEW_STEPS}"
# Name -> what is done in it, in this order: with the embedded data, then with images in folders; {run} is a folder.
OFFLINE = {
    "import": "import",
    "train": f"train --output_dir {{run}} {SHORT} 16",
    "resume": f"train --output_dir {{run}} {SHORT} 32",
    "study": "study {study} --output_dir {out}/study --dry_run",  # what it starts is train
    "plan": f"plan --output_dir {{run}} {SHORT} 32",
    "sample": f"sample {{run}} --output_dir {{out}}/images --num_images 1 {FEW_STEPS}",
    "select": f"select {{run}} --output_dir {{out}}/best --class_labels bag --num_candidates 3 --top_k 1 {FEW_STEPS}",
    "card": "card {run}",
    "push": "push {run} --dry_run --space",
    "train-judge": "train-judge --dataset {data} --output_dir {out}/judge --epochs 1 --widths 4 8 8",
    "train-judge of noised images": "train-judge --dataset {data} --output_dir {out}/noised --noised --epochs 1",
    "train-clip": "train-clip --dataset {data} --output_dir {out}/clip --epochs 1 --batch_size 64",
    "train in folders": f"train --dataset {{data}} --output_dir {{out}}/run --ema_profiles 0.05 0.1 {SHORT} 16",
    "ema": "ema {out}/run --sigma_rel 0.05 --output_dir {out}/other",
    "evaluate": f"evaluate {{out}}/run --clip {{out}}/clip --num_images 20 --num_styled 100 {JUDGED}",
    "show": f"show {{out}}/run --output_dir {{out}}/shown --num_images 2 --noised_judge {{out}}/noised {JUDGED}",
}
HUB = "sample some/hub-id --output_dir {out}/absent"
PAGE = "demo {run} --port {port}"
# What would keep the libraries quiet, or lead them elsewhere.
UNSET = {
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),
    *("DO_NOT_TRACK", "GRADIO_ANALYTICS_ENABLED", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
}


class Watched(NamedTuple):
    """Of each thing that was done, the exit code and the attempts; and where the page was."""

    report: dict[str, dict]
    port: int


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Watched:
    place, port = tmp_path_factory.mktemp("offline"), free_port()
    data = class_folders(place / "data", dict.fromkeys(CATS, 80), size=(28, 28))
    study = place / "study.yaml"
    study.write_text("{base: {size: tiny}, images: 16, seeds: [0], factors: {learning_rate: [1.0e-4]}}")
    named = {"run": place / "run", "out": place / "out", "data": data, "port": port, "study": study}
    todo = {**OFFLINE, "hub": HUB, "page": PAGE}
    words = {name: [word.format(**named) for word in line.split()] for name, line in todo.items()}
    (place / "commands.json").write_text(json.dumps(words))
    environment = {name: value for name, value in os.environ.items() if name.upper() not in UNSET}
    environment |= {"HF_HOME": str(place / "hf"), "HFDIFF_CACHE": str(place / "cache"), "HF_TOKEN": "hf_nobodys"}
    files = [str(place / "commands.json"), str(place / "report.json")]
    process = subprocess.Popen([sys.executable, str(PROGRAM), *files], env=environment)
    try:
        ask(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait()
    return Watched(json.loads((place / "report.json").read_text()), port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(address: str, process: subprocess.Popen) -> None:
    """Load the page, the last thing that the process does, once it is there; or give up with the process."""
    while process.poll() is None:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.1)


@pytest.mark.parametrize("name", OFFLINE)
def test_nothing_connects_that_needs_no_hub(watched, name):
    assert watched.report[name] == {"code": 0, "tried": []}


def test_the_page_reaches_for_itself_alone(watched):
    """Gradio asks its own server whether it is up."""
    assert watched.report["page"]["code"] == 128 + 15
    places = {attempt.split()[1] for attempt in watched.report["page"]["tried"]}
    assert places <= {f"127.0.0.1:{watched.port}"}


def test_a_model_of_the_hub_is_seen_to_be_looked_for(watched):
    assert watched.report["hub"]["code"] == 2
    assert "socket.getaddrinfo huggingface.co:443" in watched.report["hub"]["tried"]


def test_every_command_is_watched():
    assert {line.split()[0] for line in (*OFFLINE.values(), PAGE)} == {"import", *COMMANDS}
