"""A web page to play with a class-and-style pipeline: choose, watch it draw, see the scores, download.

A standalone module: `hfdiff demo` serves it on this machine, and `hfdiff push --space` sends it to a Space as it is.
"""

import contextlib
import html
import io
import json
import math
import os
import queue
import sys
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing leaves the machine unasked

import gradio as gr
import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

MOST_IMAGES = 64  # of one request
MOST_STEPS = 100
MOST_WAITING = 16  # requests in the queue
NOT_MEASURED = "How good these images are was not measured: hfdiff evaluate MODEL writes metrics.json beside the model."
SHOWN_SIDE = 112  # pixels that an image takes on the sheet that is watched
ROUTES = (  # of Gradio's, as it writes them: what the page needs, and all that is answered
    "GET /",
    "HEAD /",  # Gradio looks whether it is up
    "GET /assets/{path:path}",
    "GET /favicon.ico",
    "GET /static/{path:path}",
    "GET /theme.css",
    "GET /gradio_api/app_id",  # after a lost connection
    "GET /gradio_api/file={path_or_url:path}",
    "GET /gradio_api/queue/data",
    "POST /gradio_api/queue/join",
    "GET /gradio_api/startup-events",  # Gradio calls it
)


@dataclass(frozen=True)
class PageRequest:
    """What a visitor asks for; ValueError for what is not valid."""

    class_labels: list[str]
    styles: dict[str, float]
    guidance_scale: float
    style_guidance_scale: float
    num_inference_steps: int
    seed: int
    num_candidates: int  # of each class

    def __post_init__(self) -> None:
        if not self.class_labels:
            raise ValueError("choose at least one class")
        if len(set(self.class_labels)) < len(self.class_labels):
            raise ValueError("a class is named twice")
        total = len(self.class_labels) * self.num_candidates
        if not 1 <= total <= MOST_IMAGES:
            raise ValueError(f"{total} images; valid: 1 to {MOST_IMAGES} at once")
        if not 1 <= self.num_inference_steps <= MOST_STEPS:
            raise ValueError(f"{self.num_inference_steps} steps; valid: 1 to {MOST_STEPS}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed}; valid: 0 to {2**32 - 1}")


@dataclass(frozen=True)
class PageImages:
    """Images label by label, with CLIP the best of each first."""

    images: list[Image.Image]
    class_labels: list[str]
    scores: list[dict[str, float]] | None
    candidates: list[int]


def draw_images(pipe: DiffusionPipeline, request: PageRequest, watch: Any = None) -> PageImages:
    """All that is asked for; `watch` is called with the predicted clean images (B, C, H, W) of each step."""
    given = asdict(request)
    count, seed = given.pop("num_candidates"), given.pop("seed")
    total = count * len(request.class_labels)
    scored = pipe.clip_model is not None

    def step(pipe: Any, index: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        if watch is not None:
            watch(pipe.predicted_clean(tensors["model_input"], tensors["prediction"], t))

    out = pipe(
        **given,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(total)],
        callback_on_step_end=step,
        **({"num_candidates": count, "top_k": count} if scored else {"num_images_per_label": count}),
    )
    labels = [pipe.class_names[label] for label in out.class_labels]
    return PageImages(out.images, labels, out.scores, out.candidates or [i % count for i in range(total)])


def sheet(images: torch.Tensor, across: int) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1], `across` to a row, as one of uint8 (H', W', 3)."""
    pixels = ((images.float().cpu().nan_to_num(0).clamp(-1, 1) + 1) * 127.5).round().byte()
    factor = max(1, SHOWN_SIDE // pixels.shape[-1])
    pixels = pixels.expand(-1, 3, -1, -1).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    rows = [torch.cat(list(row), dim=-1) for row in pixels.split(across)]
    return torch.cat(rows, dim=-2).permute(1, 2, 0).numpy()


def pack(drawn: PageImages, request: PageRequest, model: str, folder: Path) -> str:
    """A zip of the images and of settings.json, which says how each was made; its path."""
    records = []
    file = folder / "pictures.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for i, (image, label) in enumerate(zip(drawn.images, drawn.class_labels)):
            content = io.BytesIO()
            image.save(content, "PNG")
            name = f"{i:03d}.png"
            archive.writestr(name, content.getvalue())
            number = request.class_labels.index(label) * request.num_candidates + drawn.candidates[i]
            scores = drawn.scores[i] if drawn.scores else None
            records.append({"file": name, "class": label, "seed": request.seed + number, "scores": scores})
        settings = {"model": model, **asdict(request), "pictures": records}
        archive.writestr("settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return str(file)


class Gone(Exception):
    """The visitor has left, or the page closes."""


@dataclass(frozen=True)
class Turns:
    """The pipeline draws for one visitor at a time, and for none once the page closes."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Wait for the end of the step that is being drawn: Python cannot end while torch computes in a thread."""
        self.closed.set()
        with self.lock:
            pass


def painting(pipe: DiffusionPipeline, turns: Turns, request: PageRequest) -> Iterator[torch.Tensor | PageImages]:
    """The predicted clean images of each step as they come, and at the end what was drawn.

    Where nobody takes the next image any more, drawing stops.
    """
    items: queue.Queue = queue.Queue(maxsize=4)
    left = threading.Event()

    def put(item: Any) -> None:
        while not (left.is_set() or turns.closed.is_set()):
            with contextlib.suppress(queue.Full):
                return items.put(item, timeout=0.1)
        raise Gone

    def work() -> None:
        with turns.lock, contextlib.suppress(Gone):
            try:
                put(None)  # is anybody there still?
                result: Any = draw_images(pipe, request, put)
            except Gone:
                raise
            except Exception as error:
                result = error  # the visitor's, in whose thread it is raised again
            put(result)

    threading.Thread(target=work, daemon=True).start()
    try:
        while not isinstance(item := items.get(), PageImages | Exception):
            if item is not None:
                yield item
        if isinstance(item, Exception):
            raise item
        yield item
    finally:
        left.set()


def answering(pipe: DiffusionPipeline, model: str, turns: Turns) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """What the button does: the fields' values -> those of what is shown, again and again until all is drawn."""
    scored, styles = pipe.clip_model is not None, pipe.style_names

    def answer(classes: Any, *fields: Any) -> Iterator[tuple[Any, ...]]:
        guidance, style_guidance, steps, seed, count, *strengths = map(number_in, fields)
        wanted = {name: strength for name, strength in zip(styles, strengths) if strength}
        request = PageRequest(names_in(classes), wanted, guidance, style_guidance, int(steps), int(seed), int(count))
        for step, item in enumerate(painting(pipe, turns, request), start=1):
            if not isinstance(item, PageImages):
                yield sheet(item, request.num_candidates), f"step {step}", [], [], [], None
                continue
            best = [i for i in range(len(item.images)) if i % request.num_candidates == 0] if scored else []
            every = gr.Gallery(with_captions(item, range(len(item.images))), columns=request.num_candidates)
            with tempfile.TemporaryDirectory() as place:  # Gradio keeps a copy of its own
                file = pack(item, request, model, Path(place))
                yield (
                    gr.skip(),
                    f"done: {len(item.images)} images",
                    with_captions(item, best),
                    every,
                    score_rows(item),
                    file,
                )

    return answer


def names_in(field: Any) -> list[str]:
    """The names that a visitor chose; ValueError for anything else that is sent."""
    if not isinstance(field, list) or not all(isinstance(name, str) for name in field):
        raise ValueError("the classes are no list of names")
    return field


def number_in(field: Any) -> float:
    """The number in a field; ValueError for anything else that is sent."""
    if isinstance(field, bool) or not isinstance(field, int | float):
        raise ValueError("a field is empty, or holds no number")
    return field


class Page(gr.Blocks):
    """Gradio's page, where what fails reaches the visitor as text, and the terminal no traceback."""

    async def process_api(self, *args: Any, **given: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*args, **given)
        except Exception as error:
            text = (str(error) or type(error).__name__).partition("\n")[0]
            raise gr.Error(html.escape(text), duration=None, print_exception=traceback_wanted()) from error


def traceback_wanted() -> bool:
    return "HFDIFF_TRACEBACK" in os.environ


def measured_table(rows: Sequence[Sequence[str]]) -> str:
    """HTML of the five numbers of a report: name, value, 95% interval, real images, n, what that says."""
    heads = ("", "samples", "95%", "real images", "n", "what it says")
    lines = [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in rows]
    table = "".join(f"<tr>{''.join(cells)}</tr>" for cells in ([f"<th>{head}</th>" for head in heads], *lines))
    return f"<table>{table}</table>"


def build(pipe: DiffusionPipeline, model: str, turns: Turns, measured: Sequence[Sequence[str]] = ()) -> gr.Blocks:
    """The page for a pipeline; `model` is its name on it and in the settings, `measured` the five numbers of its
    report."""
    pipe.set_progress_bar_config(disable=True)
    scored, styles = pipe.clip_model is not None, pipe.style_names
    own = pipe.config.get("sampling") or {}
    with Page(title=f"{model}: draw by class and style", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>{html.escape(model)}</h1>")
        gr.Markdown("Images by class and by style. Move a style above 0 to ask for it; several act at once.")
        gr.HTML(measured_table(measured) if measured else NOT_MEASURED)
        with gr.Row():
            with gr.Column(scale=1):
                classes = gr.CheckboxGroup(pipe.class_names, value=pipe.class_names[:3], label="classes")
                sliders = [gr.Slider(0, 1, 0, step=0.05, label=f"style: {name}") for name in styles]
                guidance = gr.Slider(1, 6, own.get("guidance_scale", 3), step=0.1, label="guidance to the class")
                style_guidance = gr.Slider(
                    1, 6, own.get("style_guidance_scale", 3), step=0.1, label="guidance to the styles"
                )
                steps = gr.Slider(2, MOST_STEPS, own.get("num_inference_steps", 10), step=1, label="steps")
                count = gr.Slider(
                    1,
                    MOST_IMAGES // 4,
                    4,
                    step=1,
                    label="candidates of each class" if scored else "images of each class",
                )
                seed = gr.Number(0, precision=0, minimum=0, label="seed")
                start = gr.Button("Draw", variant="primary")
            with gr.Column(scale=2):
                status = gr.Textbox(label="status", interactive=False)
                watched = gr.Image(
                    label="while it is drawn: the clean images that the model expects",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                best = gr.Gallery(label="the best of each class, by CLIP", columns=4, visible=scored)
                every = gr.Gallery(label="all images", columns=8)
                table = gr.Dataframe(headers=score_heads(scored), label="scores", interactive=False, visible=scored)
                download = gr.File(label="images and the settings that made them", interactive=False)
        start.click(
            answering(pipe, model, turns),
            [classes, guidance, style_guidance, steps, seed, count, *sliders],
            [watched, status, best, every, table, download],
            api_visibility="private",
            preprocess=False,  # the fields' values as they come: what is wrong with them is said in our words
        )
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return page


class Guard:
    """ASGI: what the page needs passes, and nothing else that Gradio can do: uploads, histories, files of the user."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self.app, self.local = app, local
        routes = (route.split(" ", 1) for route in ROUTES)
        self.routes = [(method, compile_path(path)[0]) for method, path in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope.get("method"), scope["path"].removeprefix(scope.get("root_path", ""))
        if self.local and is_foreign(Headers(scope=scope)):
            return await PlainTextResponse("refused: another site asks", 403)(scope, receive, send)
        if not any(method == one and pattern.match(path) for one, pattern in self.routes):
            return await PlainTextResponse("refused: no part of the page", 403)(scope, receive, send)
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # the visitor has been answered
            if traceback_wanted():
                raise
            print(f"{method} {path!r}: {type(error).__name__}", file=sys.stderr)


def is_foreign(headers: Headers) -> bool:
    """Is this of a page of another site or port? A link that leads here is not."""
    own = f"http://{headers.get('host')}"
    same = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return headers.get("origin", own) != own or not (same or headers.get("sec-fetch-dest") == "document")


def serve(
    pipe: DiffusionPipeline,
    model: str,
    hosts: Sequence[str] = (),
    measured: Sequence[Sequence[str]] = (),
    **given: Any,
) -> None:
    """Serve the page until it is stopped: no file but its own outputs, no tunnel, no uploads, no history.

    hosts: the names that this machine's own page answers to, and to no other site; without, any, as a Space does.
    measured: the five numbers of the model's report, a row of texts each.
    """

    @contextlib.asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        """Around Gradio's own middleware: that would tell other sites which origins it takes."""
        guard = Guard(app.middleware_stack, local=bool(hosts))
        app.middleware_stack = TrustedHostMiddleware(guard, allowed_hosts=hosts or None)
        yield

    with tempfile.TemporaryDirectory(prefix="hfdiff-page-") as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache  # the only files that are given away
        turns = Turns()
        try:
            build(pipe, model, turns, measured).launch(
                share=False,
                allowed_paths=[cache],  # were it empty, the environment's would count
                run_history=False,
                mcp_server=False,
                num_workers=0,  # each would be a server of its own, without the guard
                ssr_mode=False,
                pwa=False,
                footer_links=["gradio"],
                enable_monitoring=False,
                app_kwargs={"lifespan": guarded},
                **given,
            )
        finally:
            turns.close()


def with_captions(drawn: PageImages, rows: Sequence[int]) -> list[tuple[Image.Image, str]]:
    """Images of a gallery, large enough to be seen, with what they show."""
    shown = []
    for i in rows:
        image = drawn.images[i]
        factor = max(1, math.ceil(SHOWN_SIDE / image.width))
        text = drawn.class_labels[i] + (f", {drawn.scores[i]['total']:.3f}" if drawn.scores else "")
        shown.append((image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST), text))
    return shown


def score_heads(scored: bool) -> list[str]:
    return ["class", "prompt", "class score", "quality", "total"] if scored else ["class"]


def score_rows(drawn: PageImages) -> list[list[Any]]:
    if drawn.scores is None:
        return []
    return [
        [label, *(round(value, 4) for value in scores.values())]
        for label, scores in zip(drawn.class_labels, drawn.scores)
    ]
