"""The page: what it draws and refuses, and one whole journey in a browser."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import gradio as gr
import pytest
import torch
from conftest import ROOT, tiny_unet
from hostile_names import HOSTILE
from huggingface_hub import SpaceCard
from PIL import Image
from test_hub import run

import hfdiff.publish.hub as hub_module
import hfdiff.publish.page as page_module
from hfdiff.commands import demo
from hfdiff.evaluation.clip import load_clip
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import export_pipeline, make_pipeline, weights_fingerprint
from hfdiff.models.objectives import make_objective
from hfdiff.publish.page import MOST_IMAGES, PageRequest, Turns, build, draw_images, pack, painting, sheet
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import RunFolder, save_config

pytestmark = pytest.mark.slow

# The page of a model, at the port that serving() gives
PROGRAM = """
import os, sys
from hfdiff.cli import main
main(["demo", sys.argv[1], "--port", os.environ["GRADIO_SERVER_PORT"]])
"""
DEMO = (sys.executable, "-c", PROGRAM)
REQUEST = PageRequest(["Sneaker", "Bag"], {"thick": 0.5}, 2.0, 1.0, 3, 7, 2)


@pytest.fixture
def clothes(pipeline):
    """The tiny pipeline with the embedded CLIP, as a run on these classes has it."""
    model, processor = load_clip(dataset="fashion_mnist")
    pipeline.register_modules(clip_model=model, clip_processor=processor)
    return pipeline


def test_without_a_clip_the_images_come_in_order(pipeline):
    frames: list[torch.Tensor] = []
    drawn = draw_images(pipeline, REQUEST, frames.append)
    assert drawn.class_labels == ["Sneaker", "Sneaker", "Bag", "Bag"]
    assert drawn.candidates == [0, 1, 0, 1]
    assert drawn.scores is None
    assert [frame.shape for frame in frames] == [(4, 1, 28, 28)] * 3


def test_with_a_clip_the_best_of_each_class_comes_first(clothes):
    drawn = draw_images(clothes, REQUEST)
    totals = [scores["total"] for scores in drawn.scores]
    assert totals[0] >= totals[1]
    assert totals[2] >= totals[3]
    assert sorted(drawn.candidates[:2]) == [0, 1]


def test_the_settings_draw_the_same_image_again(clothes, tmp_path):
    drawn = draw_images(clothes, REQUEST)
    with zipfile.ZipFile(pack(drawn, REQUEST, "clothes", tmp_path)) as archive:
        settings = json.loads(archive.read("settings.json"))
        record = settings["pictures"][0]
        image = Image.open(io.BytesIO(archive.read(record["file"])))
        assert len(archive.namelist()) == 5
    again = clothes(
        [record["class"]],
        styles=settings["styles"],
        generator=[torch.Generator().manual_seed(record["seed"])],
        guidance_scale=settings["guidance_scale"],
        style_guidance_scale=settings["style_guidance_scale"],
        num_inference_steps=settings["num_inference_steps"],
    ).images[0]
    assert max(abs(a - b) for a, b in zip(image.tobytes(), again.tobytes(), strict=True)) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_labels": []}, "choose at least one class"),
        ({"num_candidates": MOST_IMAGES}, "128 images; valid: 1 to 64"),
        ({"num_inference_steps": 1000}, "1000 steps; valid"),
        ({"seed": -1}, "seed -1; valid"),
        ({"class_labels": ["Bag", "Bag"]}, "named twice"),
    ],
)
def test_limits(change, message):
    with pytest.raises(ValueError, match=message):
        PageRequest(**{**vars(REQUEST), **change})


def test_a_visitor_who_leaves_stops_the_drawing(pipeline):
    turns, long = Turns(), PageRequest(**{**vars(REQUEST), "num_inference_steps": 100})
    painted = painting(pipeline, turns, long)
    assert next(painted).shape == (4, 1, 28, 28)
    assert turns.lock.locked()
    painted.close()
    assert turns.lock.acquire(timeout=10)
    turns.lock.release()
    *frames, drawn = painting(pipeline, turns, REQUEST)  # the next visitor's is right
    assert len(frames) == 3
    assert drawn.images == draw_images(pipeline, REQUEST).images


def test_a_page_that_closes_waits_for_no_more_than_a_step(pipeline):
    turns, long = Turns(), PageRequest(**{**vars(REQUEST), "num_inference_steps": 100})
    painted = painting(pipeline, turns, long)
    next(painted)
    turns.close()
    assert not turns.lock.locked()


def test_what_fails_while_drawing_is_the_visitors(pipeline):
    wrong = PageRequest(**{**vars(REQUEST), "styles": {"thick": 1.0, "thin": 1.0}})
    with pytest.raises(ValueError, match="exclude each other"):
        list(painting(pipeline, Turns(), wrong))


def test_a_sheet_is_one_image():
    assert sheet(torch.zeros(4, 1, 28, 28), across=2).shape == (224, 224, 3)
    assert sheet(torch.full((1, 3, 32, 32), float("nan")), across=1).shape == (96, 96, 3)


def test_a_port_in_use_is_refused(pipeline, tmp_path, capsys):
    export_pipeline(pipeline, tmp_path / "model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("demo", str(tmp_path / "model"), "--port", str(taken.getsockname()[1])) == 2
    assert "give another --port" in capsys.readouterr().err
    assert run("demo", str(tmp_path / "model"), "--port", "0") == 2


@pytest.mark.parametrize(("set_there", "hosts"), [("HFDIFF_NOTHING", demo.HOSTS), (demo.COLAB, ())])
def test_only_the_proxy_of_colab_may_have_another_name(pipeline, tmp_path, monkeypatch, set_there, hosts):
    export_pipeline(pipeline, tmp_path / "model")
    asked: list[tuple] = []
    monkeypatch.setattr(page_module, "serve", lambda *given, **_: asked.append(given))
    monkeypatch.setattr(demo, "drop_tokens", lambda: None)
    monkeypatch.setenv(set_there, "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert run("demo", str(tmp_path / "model"), "--port", str(port)) == 0
    assert [given[1:] for given in asked] == [("model", hosts, [])]


def test_the_page_shows_the_five_numbers_of_the_report_as_text(pipeline, tmp_path, capsys):
    model = str(tmp_path / "model")
    export_pipeline(pipeline, tmp_path / "model")
    assert demo.first_screen_of(model, pipeline) == []
    assert "was not measured: hfdiff evaluate MODEL" in page_of(pipeline, [])
    style = {"value": 0.5, "ci95": [0.4, 0.6], "real": 0.9, "n": 100, "real_n": 100, "extractor": "judge"}
    style["per_style"] = {"<img src=x>": {"spearman": 0.5}}
    report = {"protocol": {"weights": weights_fingerprint(pipeline.unet)}, "metrics": {"style_fidelity": style}}
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(report))
    rows = demo.first_screen_of(model, pipeline)
    assert [row[0] for row in rows] == ["right class", "variety", "distance", "style", "copies"]
    shown = page_of(pipeline, rows)
    for cell in ("style", "0.5", "0.4 to 0.6", "0.9", "100", "raise style_guidance_scale", "&lt;img src=x&gt;"):
        assert cell in shown
    assert "<img" not in shown
    assert shown.count("Not measured. hfdiff evaluate MODEL --metrics") == 4
    (tmp_path / "model" / "metrics.json").write_text("{")
    assert demo.first_screen_of(model, pipeline) == []
    assert "metrics.json is damaged" in capsys.readouterr().out


def page_of(pipe, measured) -> str:
    """The HTML of a page that is no field."""
    page = build(pipe, "model", Turns(), measured)
    return "".join(block.value for block in page.blocks.values() if isinstance(block, gr.HTML))


@pytest.fixture
def served(clothes, tmp_path):
    """The page, as `hfdiff demo` serves it; its address. When it ends, what it drew is gone."""
    place = tmp_path / "tmp"
    place.mkdir()
    export_pipeline(clothes, tmp_path / "clothes")
    with serving([*DEMO, str(tmp_path / "clothes")], environment={"TMPDIR": str(place)}) as address:
        yield address
        assert list(place.glob("hfdiff-page-*"))
    assert not list(place.glob("hfdiff-page-*"))


@contextmanager
def serving(
    words: list[str], cwd: Path | None = None, environment: dict[str, str] | None = None, terminal: IO | None = None
) -> Iterator[str]:
    """While entered, a program serves the page at this address, its port in Gradio's own variable."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = os.environ | (environment or {}) | {"GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(words, cwd=cwd, env=variables, stderr=terminal)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browsing(address: str) -> Iterator[Any]:
    """A browser's page at this address; it asks nothing of any other machine, and runs no script of a name."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: wrong.append(dialog.message) or dialog.dismiss())
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not wrong


def test_a_whole_journey_in_a_browser(served, tmp_path):
    """Choose, draw, watch, see images and scores, download."""
    check_no_file_of_the_machine_is_served(served)
    check_only_this_machine_sees(served)
    with browsing(served) as page:
        from playwright.sync_api import expect

        page.get_by_label("Bag").check()
        page.get_by_label("number input for style: thick").fill("0.8")
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_label("status")).to_have_value("done: 12 images", timeout=60_000)
        assert page.locator(".thumbnail-item img").count() == 3 + 12
        expect(page.locator(".image-frame img")).to_be_visible()  # the last of the frames that were watched
        for text in ("class score", "quality", "total"):
            expect(page.get_by_text(text, exact=True).locator("visible=true").first).to_be_visible()
        with page.expect_download() as download:
            page.locator("a[download='pictures.zip']").first.click()
        with zipfile.ZipFile(download.value.path()) as archive:
            settings = json.loads(archive.read("settings.json"))
        assert settings["styles"] == {"thick": 0.8}
        assert len(settings["pictures"]) == 12
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        for label in ("Sneaker", "Bag", "T-shirt/top"):
            page.get_by_label(label).uncheck()
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_text("choose at least one class")).to_be_visible()


def test_names_are_text_in_a_browser(tmp_path):
    """Names of classes, styles, the model, and what an error says of them: no tags, no links, no formulas."""
    model = tmp_path / "<img src=x onerror=alert(1)> **b** $$x$$ {{ 7*7 }} ${alert(1)}"
    styles = HOSTILE[:8]
    unet = tiny_unet(num_classes=len(HOSTILE), num_styles=len(styles))
    make_pipeline(unet, make_objective(ObjectiveConfig()).scheduler(), HOSTILE, styles, ()).save_pretrained(model)
    with serving([*DEMO, str(model)]) as address, browsing(address) as page:
        from playwright.sync_api import expect

        expect(page.locator("h1")).to_have_text(model.name)
        assert page.title() == f"{model.name}: draw by class and style"
        boxes = page.locator("input[type=checkbox]")
        expect(boxes).to_have_count(len(HOSTILE))
        for box in boxes.all():
            box.check()
        page.get_by_label("number input for images of each class").fill("1")
        page.get_by_label("number input for steps").fill("2")
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_label("status")).to_have_value(f"done: {len(HOSTILE)} images", timeout=60_000)
        labels = page.locator("label").all_text_contents()
        captions = page.locator(".caption-label").all_text_contents()
        for name in HOSTILE:
            assert " ".join(name.split()) in {" ".join(text.split()) for text in labels}
            assert " ".join(name.split()) in {" ".join(text.split()) for text in captions}
        assert {f"style: {name}" for name in styles} <= {" ".join(text.split()) for text in labels}
        page.route("**/queue/join*", ask_for_a_class_called(HOSTILE[0] + "!"))
        page.get_by_role("button", name="Draw").click()
        expect(page.locator(".toast-body")).to_contain_text(f"unknown class '{HOSTILE[0]}!'")
        assert page.locator("b, strong, em, s, code, .katex, a[href*='example'], img[src='x']").count() == 0


def ask_for_a_class_called(name: str) -> Callable[[Any], None]:
    """What the browser sends, with another class."""

    def change(route: Any) -> None:
        body = route.request.post_data_json
        body["data"][0] = [name]
        route.continue_(post_data=json.dumps(body))

    return change


def check_no_file_of_the_machine_is_served(address: str, *more: str) -> None:
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), *more):
        for route in (f"/gradio_api/file={path}", f"/file={path}"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address + route)
            assert refused.value.code in (403, 404)


def check_only_this_machine_sees(address: str) -> None:
    """A page for all addresses of the machine would answer at another of the loopback's as well."""
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        socket.create_connection(("127.0.0.2", int(address.rpartition(":")[2])), timeout=5).close()


def test_a_space_serves_the_model_that_was_pushed(hub, clothes, tmp_path, monkeypatch):
    """The folder runs as it is, and gives away no file of its machine."""
    monkeypatch.setattr(hub_module, "prove", lambda folder, sent: None)
    export_pipeline(clothes, tmp_path / "clothes")
    save_config(RunFolder(tmp_path / "clothes"), TrainConfig())
    assert run("push", str(tmp_path / "clothes"), "--repo_id", "ann/clothes", "--space") == 0
    files = hub.repos["spaces", "ann/clothes"].files
    card = SpaceCard(files["README.md"].decode()).data
    assert (card.sdk, card.python_version, card.sdk_version, card.app_file, card.models) == (
        "gradio",
        "3.11",
        version("gradio"),
        "app.py",
        ["ann/clothes"],
    )
    assert json.loads(files["measured.json"]) == []  # no report was there
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    environment = {"GRADIO_ALLOWED_PATHS": f"/etc,{tmp_path}", "GRADIO_MCP_SERVER": "true", "GRADIO_NUM_WORKERS": "1"}
    with serving([sys.executable, "app.py"], tmp_path, environment) as address:
        check_no_file_of_the_machine_is_served(
            address, str(tmp_path / "app.py"), str(tmp_path / "clothes" / "README.md")
        )
        for route in ("upload", "run-history/buckets", "mcp/", "info"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"{address}/gradio_api/{route}")
        assert "ann/clothes" in urllib.request.urlopen(address).read().decode()
