"""The `hfdiff` command."""

import importlib.util
import io
import json
import math
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

# Before torch: threads that spin while they wait stall each other on a machine that is shared (5 times here).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
import tyro
from accelerate import PartialState
from PIL import Image

from hfdiff.card import Facts, public_path, write_card
from hfdiff.checkpoint import MODEL_INDEX, home_of, load_pipeline, run_config, run_of, weights_fingerprint
from hfdiff.clip import describe_clip, find_clip, load_clip, no_clip
from hfdiff.config import command_line, parse
from hfdiff.data import ImageTable, open_picture, upright
from hfdiff.errors import BadInput, as_bad_input, file_to_write, first_line, folder_to_write, run_program, unknown
from hfdiff.evaluation import METRICS, Real, check_judge, inception_network, lacking
from hfdiff.files import slug, write_file, write_folder
from hfdiff.hub import collect, listing, push
from hfdiff.judge import Judge, find_judge, independent, judge_for, load_judge, unseen
from hfdiff.pictures import Grid, class_style_grid, save_picture
from hfdiff.pipelines.class_style import PLAIN, QUALITY_PROMPTS, SCORE_WEIGHTS, Choice, ClassStylePipeline, Scorer
from hfdiff.plan import measure
from hfdiff.report import (
    SETTINGS,
    Pictures,
    Protocol,
    check_fits,
    describe_report,
    draw_samples,
    real_pictures,
    report_of,
    within,
)
from hfdiff.samplers import NUM_TIMESTEPS, Spacing, make_scheduler, process_of, sampler_of
from hfdiff.select import Witnesses, select
from hfdiff.show import Subject, show
from hfdiff.signals import leave_together
from hfdiff.training import TrainConfig, use_all_cores

MAX_IMAGES, MAX_EVALUATED = 10_000, 1_000_000


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What every command that draws takes; what is not given, the model and its pipeline decide."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    guidance_scale: float | None = None
    style_guidance_scale: float | None = None
    autoguidance_scale: float | None = None
    """Guidance by the model's weaker companion, where it has one."""
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    """LOW HIGH: guide only between these noise levels (sigma / alpha), for example 0.2 5."""
    num_inference_steps: int | None = None
    sampler: str | None = None
    """Another sampler than the one saved with the model, ipndm for example."""
    spacing: Spacing = "auto"
    """Spacing of the sampler's steps in noise."""
    seed: int = 0

    def pipeline(self) -> ClassStylePipeline:
        """The model, ready to draw with the sampler asked for."""
        check_range("seed", self.seed, 0, 2**63 - 1)
        pipeline = load_pipeline(self.model)
        if device := torch.accelerator.current_accelerator():  # diffusers warns of half precision sent to a CPU
            pipeline.to(device)
        if self.sampler is not None or self.spacing != "auto":
            name = sampler_of(pipeline.scheduler) if self.sampler is None else self.sampler
            pipeline.scheduler = make_scheduler(process_of(pipeline.scheduler), name, self.spacing)
        with as_bad_input():  # before the data is read
            pipeline.check_settings(**self.given())
        return pipeline

    def given(self) -> dict[str, Any]:
        """The flags that are arguments of the pipeline."""
        return {key: getattr(self, key) for key in SETTINGS if getattr(self, key) is not None}

    def stated(self) -> dict[str, Any]:
        """What a JSON says of these flags; it knows no infinity."""
        stated = {"model": self.model, "seed": self.seed, "spacing": self.spacing, **self.given()}
        if self.guidance_interval:
            stated["guidance_interval"] = [v if math.isfinite(v) else str(v) for v in self.guidance_interval]
        return stated


@dataclass(frozen=True, kw_only=True)
class Sample(Drawing):
    """Draw pictures from a trained model."""

    output_dir: str
    """Where the pictures go."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = ()
    """One for all or one for each label: "plain", "thick:0.8+slanted"; by default, and without labels, every style."""
    num_images: int = 4
    """Pictures for each label."""
    image: str | None = None
    """Begin with this picture: to vary it, restyle it, change its class, or repair a part."""
    strength: float | None = None
    """How far from the picture to go: above 0, to 1. By default 0.6, with a mask 1."""
    mask: str | None = None
    """A picture, white where the image is drawn anew and black where it is kept."""
    clip_guidance_scale: float | None = None
    """Push every step towards clip_prompt by CLIP's gradient: 0.5, for example; from 1 on classes suffer."""
    clip_prompt: str | None = None
    """What to push to, with {} for "a thick sneaker"; by default "a clear photo of {}"."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model for that; by default the pipeline's own."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        check_range("num_images", self.num_images, 1, MAX_IMAGES)
        if self.clip_guidance_scale is None and (self.clip_prompt or self.clip):
            raise BadInput("clip_prompt and clip go with clip_guidance_scale; give it, 0.5 for example")
        files = {key: file for key, file in (("image", self.image), ("mask", self.mask)) if file is not None}
        pictures = {key: _read_picture(key, file) for key, file in files.items()}
        pipeline = self.pipeline()
        own = ("strength", "clip_guidance_scale", "clip_prompt")
        arguments = self.given() | {key: getattr(self, key) for key in own if getattr(self, key) is not None}
        if self.clip_guidance_scale is not None:
            open_clip(self.clip, pipeline, None)
        with as_bad_input():
            grid = self.draw(pipeline, arguments | pictures)
        out.mkdir(parents=True, exist_ok=True)
        records = []
        images = pipeline.numpy_to_pil(grid.images.permute(0, 2, 3, 1).numpy())
        for i, (image, label, weights) in enumerate(zip(images, grid.class_labels, grid.styles, strict=True)):
            style = "+".join(f"{name}-{strength:g}" for name, strength in weights.items()) or "plain"
            class_name = "any" if label is None else pipeline.class_names[label]
            name = f"{i:04d}-{slug(class_name)}-{slug(style)}.png"
            png = io.BytesIO()
            image.save(png, "PNG")
            write_file(out / name, png.getvalue())
            records.append({"file": name, "class": class_name, "styles": weights})
        save_picture(out / "grid.png", grid.figure())
        settings = {"sampler": sampler_of(pipeline.scheduler), **files, **arguments, **self.stated()}
        write_file(out / "samples.json", (json.dumps({**settings, "images": records}, indent=2) + "\n").encode())
        print(f"{len(images)} pictures in {out}; all of them on one sheet: {out / 'grid.png'}")
        return 0

    def draw(self, pipeline: ClassStylePipeline, arguments: dict[str, Any]) -> Grid:
        """The whole table of classes and styles where nothing was chosen, else the labels asked for."""
        if not self.class_labels and not self.styles:
            return class_style_grid(pipeline, per_cell=self.num_images, seed=self.seed, **arguments)
        labels = list(self.class_labels or pipeline.class_names)
        out = pipeline(
            class_labels=labels,
            styles=list(self.styles) or None,
            num_images_per_label=self.num_images,
            generator=torch.Generator().manual_seed(self.seed),
            output_type="pt",
            **arguments,
        )
        styles = (self.styles or (PLAIN,)) * (len(labels) if len(self.styles) < 2 else 1)
        rows = [f"{label}, {style}" for label, style in zip(labels, styles, strict=True)]
        return Grid(out.images, rows, [""], self.num_images, out.class_labels, out.styles)


@dataclass(frozen=True, kw_only=True)
class Select(Drawing):
    """Draw many candidates of each class and keep the best by CLIP, beside what its scores say of real pictures."""

    output_dir: str
    """Where the best pictures go, selection.json and selection.png."""
    class_labels: tuple[str, ...] = ()
    """Names or ids of classes; by default all."""
    styles: tuple[str, ...] = (PLAIN,)
    """Each class is drawn in each of them: plain, thick:0.8+slanted."""
    num_candidates: int = 10
    """Pictures drawn for each class and style."""
    top_k: int = 3
    """Pictures kept of them."""
    early_stopping: bool = False
    """Finish only the best third of the candidates, by what the model predicts after a third of the steps."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model; by default the pipeline's own, or the data set's."""
    score_weights: tuple[str, ...] = ()
    """Weights of the scores in the total, class:1 quality:1 by default; prompt is the cosine with the prompt."""
    good_prompts: tuple[str, ...] = ()
    """Prompts that speak well of a picture, with {} for its subject; by default "a good photo of {}" and "a clear"."""
    bad_prompts: tuple[str, ...] = ()
    """Prompts that do not; by default "a blurry photo of {}" and "a noisy"."""
    dataset: str | None = None
    """Real pictures to score beside; by default those that the run was trained on."""
    resolution: int | None = None
    """Resize the real pictures to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge; by default the data set's own, where there is one."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        check_range("num_candidates", self.num_candidates, 1, MAX_IMAGES)
        check_range("top_k", self.top_k, 1, self.num_candidates)
        choice = self.choice()
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        given = self.real_pictures(pipeline)
        scorer = open_clip(self.clip, pipeline, given.training if given else None)
        if scorer is None:
            raise no_clip(given.training.name if given else None)
        with as_bad_input():
            selection = select(
                pipeline,
                list(self.class_labels or range(len(pipeline.class_names))),
                list(self.styles),
                self.witnesses(given, scorer),
                num_candidates=self.num_candidates,
                top_k=self.top_k,
                early_stopping=self.early_stopping,
                seed=self.seed,
                **choice,
                **self.given(),
            )
        settings = {
            "clip": describe_clip(scorer.model),
            "weights": weights_fingerprint(pipeline.unet),
            "sampler": sampler_of(pipeline.scheduler),
            "num_candidates": self.num_candidates,
            "top_k": self.top_k,
            "early_stopping": self.early_stopping,
            "score_weights": dict(choice["score_weights"]),
        }
        judge = selection.judge
        if judge and not independent(judge, scorer.model.config):
            print("warning: the judge and the CLIP model saw the same pictures; what the judge says is no proof")
        settings["judge_is_independent"] = judge and independent(judge, scorer.model.config)
        selection.write(out, settings | self.stated())
        print("\n".join([selection.describe(), f"the best, and selection.json with all scores: {out}"]))
        return 0

    def choice(self) -> dict[str, Any]:
        """The arguments of the pipeline that say how to choose."""
        pairs = [text.partition(":") for text in self.score_weights]
        try:
            weights = {name: float(weight) if colon else 1.0 for name, colon, weight in pairs} or SCORE_WEIGHTS
        except ValueError:
            raise BadInput(f"score_weights {' '.join(self.score_weights)}; valid: class:1 quality:0.5") from None
        defaults = [[text for text, good in QUALITY_PROMPTS.items() if good is kind] for kind in (True, False)]
        good, bad = self.good_prompts or defaults[0], self.bad_prompts or defaults[1]
        given = {"score_weights": weights, "quality_prompts": dict.fromkeys(good, True) | dict.fromkeys(bad, False)}
        with as_bad_input():
            Choice(self.num_candidates, self.top_k, self.early_stopping, **given)
        return given

    def real_pictures(self, pipeline: ClassStylePipeline) -> Pictures | None:
        """Pictures of the model's classes, where any are known."""
        if self.dataset is None and run_config(self.model) is None:
            return None
        try:
            given = real_pictures(self.model, self.dataset, self.resolution)
        except BadInput as error:
            if self.dataset is not None:
                raise
            print(f"no real pictures to score beside: {error}")
            return None
        check_fits(pipeline, given.training)
        check_fits(pipeline, given.held_out)
        return given

    def witnesses(self, given: Pictures | None, scorer: Scorer) -> Witnesses:
        """Pictures that the scorer never saw and a judge, where there are any."""
        if given is None:
            return Witnesses(None, None)
        judge = load_judge(self.judge) if self.judge else find_judge(given.training)
        if judge is not None:
            check_judge(judge, given.training)
        return Witnesses(unseen(scorer.model.config, given.held_out), judge)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Drawing):
    """Measure how good a trained model is: against real pictures, and by a judge that never chose any of them."""

    dataset: str | None = None
    """The real pictures; by default those that the run was trained on."""
    output: str | None = None
    """JSON of the report; by default metrics.json, in the run's folder where there is one."""
    num_images: int = 2_000
    """Plain samples."""
    num_styled: int = 1_000
    """Samples in styles, where the model has styles."""
    minutes: float | None = None
    """Draw only as many pictures as fit into this time."""
    metrics: tuple[str, ...] = ()
    """Rows of the table of metrics; by default all that need nothing but hfdiff."""
    resolution: int | None = None
    """Resize the real pictures to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge; by default the data set's own, trained where there is none yet."""
    clip: str | None = None
    """Folder or Hub id of a CLIP or SigLIP model for the metrics in its features; by default as in select."""

    def main(self) -> int:
        output = self.checked_output()
        process = PartialState(cpu=not torch.accelerator.is_available())
        use_all_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if process.device.type == "cpu" else 1)
        pipeline = self.pipeline()
        if process.device.type != "cpu":
            pipeline.to(process.device)
        pipeline.set_progress_bar_config(disable=True)
        given = real_pictures(self.model, self.dataset, self.resolution)
        training, held_out = given.training, given.held_out
        check_fits(pipeline, training)
        check_fits(pipeline, held_out)
        with process.main_process_first():
            judge = open_judge(self.judge, training, held_out, process.device)
        check_judge(judge, training, pipeline.style_names)
        protocol = Protocol(self.num_images, self.num_styled if pipeline.style_names else 0, self.seed, self.given())
        if self.minutes is not None:
            with as_bad_input():
                protocol = within(self.minutes, pipeline, protocol)
            process.print(f"{self.minutes:g} minutes: {protocol.n:,} plain samples, {protocol.num_styled:,} in styles")
        scorer = open_clip(self.clip, pipeline, training)
        real = Real.of(judge, training, held_out, self.seed, copied=given.copied, scorer=scorer)
        asked = self.metrics or [name for name, row in METRICS.items() if row.default]
        lacks = {name: lacking(name, real, protocol.n, protocol.num_styled) for name in asked}
        missing = [lack for lack in lacks.values() if lack]
        if missing and self.metrics:
            raise BadInput("; ".join(missing))
        if not any(METRICS[name].styled for name, lack in lacks.items() if not lack):
            protocol = replace(protocol, num_styled=0)
        if "frechet_inception" in asked:
            inception_network()
        with as_bad_input():
            drawn = draw_samples(pipeline, real, protocol)
        if process.is_main_process:
            names = [name for name, lack in lacks.items() if not lack]
            run = run_config(self.model)
            about: dict[str, Any] = {"model": self.model, "best_by": run and run.best_by, "spacing": self.spacing}
            about |= {"resized_to": given.resolution, "missing": missing}
            about["clip"] = None if scorer is None else describe_clip(scorer.model)
            report = report_of(pipeline, real, protocol, drawn, names, **about)
            write_file(output, (json.dumps(report, indent=2) + "\n").encode())
            print("\n".join([describe_report(report), *missing, f"the whole report: {output}"]))
        return leave_together(0)

    def checked_output(self) -> Path:
        """Where the report goes; BadInput for whatever can be refused before the model is loaded."""
        check_range("num_images", self.num_images, 1, MAX_EVALUATED)
        check_range("num_styled", self.num_styled, 0, MAX_EVALUATED)
        if self.minutes is not None:
            check_range("minutes", self.minutes, 0.01, 100_000)
        for name in self.metrics:
            if name not in METRICS:
                raise unknown("metric", name, METRICS)
            row, have = METRICS[name], self.num_styled if METRICS[name].styled else self.num_images
            if have < row.least:
                what = "samples in styles" if row.styled else "samples"
                raise BadInput(f"{name} needs {row.least} {what}; there are {have}")
        output = Path(self.output) if self.output is not None else (home_of(self.model) or Path()) / "metrics.json"
        return file_to_write(str(output) if self.output is None else self.output, "output")


@dataclass(frozen=True, kw_only=True)
class Show(Drawing):
    """Explain a trained model in pictures, with a text for each: noise, its reverse, when a judge sees the class."""

    output_dir: str
    """Where the pictures go, and show.json with their texts and numbers."""
    dataset: str | None = None
    """Real pictures of the model's classes; by default those that the run was trained on."""
    num_images: int = 20
    """Pictures for each class, where they are counted."""
    num_inference_steps: int | None = 50
    """Steps of the reverse process that is watched."""
    resolution: int | None = None
    """Resize the real pictures to this many pixels a side."""
    judge: str | None = None
    """Folder of a judge; by default the data set's own, trained where there is none yet."""

    def main(self) -> int:
        out = folder_to_write(self.output_dir)
        subject = self.subject()
        records = {}
        for shown in show(subject):
            shown.write(out)
            records[shown.file] = {"alt": shown.alt, **shown.numbers}
        write_file(out / "show.json", (json.dumps(records, indent=2, ensure_ascii=False) + "\n").encode())
        print(f"{len(records)} pictures in {out}; what they show, in words and numbers: {out / 'show.json'}")
        return 0

    def subject(self) -> Subject:
        """All that is shown, with the slowest part drawn; BadInput before anything is written."""
        check_range("num_images", self.num_images, 1, MAX_IMAGES)
        steps = self.num_inference_steps or 50
        check_range("num_inference_steps", steps, 2, NUM_TIMESTEPS)
        pipeline = self.pipeline()
        given = real_pictures(self.model, self.dataset, self.resolution)
        training, held_out = given.training, given.held_out
        check_fits(pipeline, training)
        check_fits(pipeline, held_out)
        judge = open_judge(self.judge, training, held_out, pipeline.device)
        check_judge(judge, training)
        subject = Subject(
            pipeline=pipeline,
            judge=judge,
            real=unseen(judge, held_out),
            training=given.copied,
            run=run_of(self.model),
            seed=self.seed,
            num_images=self.num_images,
            num_inference_steps=steps,
            guidance={key: value for key, value in self.given().items() if key != "num_inference_steps"},
        )
        if not len(subject.real):
            raise BadInput(f"data set {training.name!r} has no held-out pictures that the judge never saw; give others")
        with as_bad_input():
            _ = subject.reverse
        return subject


@dataclass(frozen=True)
class Plan(TrainConfig):
    """Say what training with these flags, or with --config FILE, costs on this machine; writes nothing."""

    def main(self) -> int:
        print(measure(self).describe())
        return 0


@dataclass(frozen=True, kw_only=True)
class Card:
    """Write a model's card, README.md, from the files of its run; --output_dir writes all that push would send."""

    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME on the Hub, for the code that loads it; by default this folder."""
    output_dir: str | None = None
    """A new folder for the whole: pipeline, card, pictures and records, as they would be on the Hub."""
    half: bool = False
    """There, save the weights in half precision: half the size; they load as float32."""

    def main(self) -> int:
        if self.half and self.output_dir is None:
            raise BadInput("half goes with output_dir: a card alone has no weights")
        out = None if self.output_dir is None else new_folder(self.output_dir)
        facts = Facts.of(self.model)
        folder_to_write(str(facts.home), "MODEL")
        print(f"the card: {write_card(facts, self.repo_id)}")
        if out is not None:
            name = self.repo_id or public_path(str(out))
            write_folder(out, lambda folder: collect(facts, folder, name, self.half))
            print("\n".join([*listing(out), f"the whole: {out}"]))
        return 0


@dataclass(frozen=True, kw_only=True)
class Push:
    """Publish a model on the Hub: list every file, send them in one commit, load it back and compare pictures."""

    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME; by default your own, and the folder's name."""
    private: bool = True
    """--no_private shows it to everyone."""
    space: bool = False
    """Send a page to play with it as well, a Space of the same name."""
    half: bool = False
    """Publish the weights in half precision: half the size; they load as float32."""
    dry_run: bool = False
    """List the files, and send nothing."""
    yes: bool = False
    """Do not ask. Where there is no terminal, nothing is asked."""

    def main(self) -> int:
        facts = Facts.of(self.model)
        push(
            facts,
            self.repo_id,
            private=self.private,
            half=self.half,
            space=self.space,
            dry_run=self.dry_run,
            confirm=lambda: self.yes or confirmed("send these files? [y/N] "),
        )
        return 0


def confirmed(question: str) -> bool:
    """What the user says; yes where there is no terminal to ask at."""
    try:
        return sys.stdin is None or not sys.stdin.isatty() or input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Serve a page on this machine to play with a model: classes, styles, watching it draw, scores, downloads."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    port: int = 7860
    """On 127.0.0.1: only this machine sees the page."""

    def main(self) -> int:
        check_range("port", self.port, 1, 65535)
        check_port(self.port)
        if importlib.util.find_spec("gradio") is None:
            raise BadInput("the page needs Gradio: pip install 'hfdiff[demo]'")
        from hfdiff.page import serve  # takes seconds, and is an extra

        pipeline = load_pipeline(self.model)
        if not pipeline.class_names:
            raise BadInput("the model knows no classes, so there is nothing to choose; valid: a model with classes")
        if device := torch.accelerator.current_accelerator():
            pipeline.to(device)
        print(f"http://127.0.0.1:{self.port}   (ctrl-C ends it)", flush=True)
        name = (home_of(self.model) or Path(self.model)).resolve().name
        serve(pipeline, name, server_name="127.0.0.1", server_port=self.port, quiet=True)
        return 0


def check_port(port: int) -> None:
    """BadInput where the port of this machine is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(f"port {port} cannot be used: {error.strerror}; give another --port") from error


def new_folder(path: str) -> Path:
    """A folder that is not there yet, or was written here before."""
    out = folder_to_write(path)
    if out.exists() and any(out.iterdir()) and not (out / MODEL_INDEX).is_file():
        raise BadInput(f"output_dir {path} holds other things; give a new folder")
    return out


def open_judge(given: str | None, training: ImageTable, held_out: ImageTable, device: torch.device) -> Judge:
    """The judge in the folder given, else the data set's own."""
    return load_judge(given).to(device) if given else judge_for(training, held_out, device=device)


def open_clip(given: str | None, pipeline: ClassStylePipeline, training: ImageTable | None) -> Scorer | None:
    """The CLIP model asked for becomes the pipeline's; by default that which it carries, else the data set's own."""
    if given is None and pipeline.clip_model is None and training is not None:
        given = find_clip(training)
    if given is not None:
        model, processor = load_clip(given)
        pipeline.register_modules(clip_model=model.to(pipeline.device), clip_processor=processor)
    with as_bad_input():
        return None if pipeline.clip_model is None else pipeline.scorer


def check_range(name: str, value: float, low: float, high: float) -> None:
    """BadInput for a number outside [low, high]."""
    if not low <= value <= high:
        raise BadInput(f"{name} is {value}; valid: {low} to {high}")


def _read_picture(flag: str, file: str) -> Image.Image:
    """The picture in a file, turned as in training; BadInput names the file."""
    try:
        if Path(file).exists() and not Path(file).is_file():  # reading a pipe would wait for ever
            raise ValueError("it is no regular file; valid: a picture")
        with open_picture(file) as image:
            image.load()
            return upright(image)
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise BadInput(f"{flag} {file!r} cannot be read: {reason}") from error


COMMANDS = {
    "plan": Plan,
    "sample": Sample,
    "select": Select,
    "evaluate": Evaluate,
    "show": Show,
    "card": Card,
    "push": Push,
    "demo": Demo,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console command."""
    words = sys.argv[1:] if argv is None else list(argv)
    run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: hfdiff COMMAND ...   (hfdiff COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()))
        return 0
    if words[0] not in COMMANDS:
        raise BadInput(f"unknown command {words[0]!r}; valid: {', '.join(COMMANDS)}")
    command = COMMANDS[words[0]]
    read: Any = parse if issubclass(command, TrainConfig) else command_line
    return read(command, words[1:], command.__doc__ or "", prog=f"hfdiff {words[0]}").main()


if __name__ == "__main__":
    main()
