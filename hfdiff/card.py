"""A model's card, written from the files of its run: every number in it stands in one of them.

What was not measured does not appear; what was measured of other weights is left out, with a word.
"""

import contextlib
import hashlib
import inspect
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import BadInput, as_bad_input, first_line
from hfdiff.core.files import existing_folder, file_to_write, folder_to_write, is_inside, link_out, slug, write_file
from hfdiff.data.registry import DATASETS
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.protocol import SETTINGS
from hfdiff.evaluation.report import chosen_by
from hfdiff.figures.gallery import MAX_CLASSES, Shown, classes_and_styles, curves
from hfdiff.models.loading import find_pipeline, load_pipeline, weights_fingerprint
from hfdiff.models.objectives import resolved
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import home_of, run_config

TEMPLATE = Path(__file__).parent / "templates" / "card.md"
PICTURES = "card"  # the folder beside README.md
NOTES = "notes.md"  # what the author says in words
RECORDS = ("training.json", "metrics.json", "selection.json")
TASK = "unconditional-image-generation"  # the Hub has no word for drawing by class
TAGS = ("diffusers", "hfdiff", "image-generation", "class-conditional", "style")
NEEDS = ("diffusers>=0.42.1", "torch>=2.10", "transformers>=5.0", "safetensors", "numpy", "pillow")  # to draw
RECIPE = (
    "objective schedule zero_terminal_snr flow_shift loss_weight min_snr_gamma time_sampling stratified learning_rate "
    "lr_schedule batch_size gradient_accumulation_steps weight_decay ema_share drop_class drop_style drop_both "
    "style_share flip augment dropout init_from seed"
).split()


@dataclass(frozen=True)
class Facts:
    """What is known of a model, as its files say it."""

    model: str  # as the user named it
    home: Path  # the folder of those files
    pipeline: ClassStylePipeline
    say: Callable[[str], None] = print

    @classmethod
    def of(cls, model: str, say: Callable[[str], None] = print) -> "Facts":
        """BadInput for what is no folder with a pipeline that knows classes."""
        if existing_folder(model) is None:
            raise BadInput(f"{model[:100]!r} is no folder on this machine; valid: a run's folder, or a pipeline's")
        pipeline, home = load_pipeline(model), home_of(model)
        assert home is not None  # what holds no pipeline was refused
        check_links(home, Path(find_pipeline(model)))
        if not pipeline.class_names:
            raise BadInput(f"{model} knows no classes, so there is nothing to say of it; valid: a model with classes")
        return cls(model, home, pipeline, say)

    @property
    def name(self) -> str:
        return self.home.resolve().name

    @property
    def readme(self) -> Path:
        return self.home / "README.md"

    @property
    def has_current_card(self) -> bool:
        """Is there a card, and of these weights, records and numbers, as far as it tells?"""
        if not self.readme.is_file():
            return False
        data = read_card(self.readme).data
        told = [(result.metric_type, str(result.metric_value)) for result in data.eval_results or ()]
        with self.damage_named():
            metrics = self.report["metrics"] if self.report else {}
            measured = [(name, str(metric["value"])) for name, metric in metrics.items()]
        of_these = data.get("weights") in (None, self.fingerprint) and data.get("records") in (None, self.digest)
        return of_these and (not told or told == measured)

    @property
    def licence(self) -> str | None:
        """As the run's configuration says, or else the card that is there."""
        if self.config and self.config.license:
            return self.config.license
        with contextlib.suppress(BadInput):  # a damaged card is written anew
            return read_card(self.readme).data.get("license") if self.readme.is_file() else None
        return None

    @cached_property
    def config(self) -> TrainConfig | None:
        """Without what it says of the machine."""
        config = run_config(self.model)
        return config and replace(
            config,
            dataset=public_path(config.dataset),
            output_dir=public_path(config.output_dir),
            init_from=config.init_from and public_path(config.init_from),
        )

    @cached_property
    def training(self) -> dict[str, Any] | None:
        return self.read("training.json")

    @cached_property
    def report(self) -> dict[str, Any] | None:
        return self.measured("metrics.json", lambda found: found["protocol"]["weights"])

    @cached_property
    def selection(self) -> dict[str, Any] | None:
        return self.measured("selection.json", lambda found: found["weights"])

    @cached_property
    def curves(self) -> list[dict[str, Any]]:
        """The points of metrics.jsonl; none where there is no such file, or it is damaged."""
        file = self.find("metrics.jsonl")
        try:
            points = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file else []
            if all(isinstance(point, dict) for point in points):
                return [public(point) for point in points]
        except (OSError, ValueError, RecursionError):
            pass
        self.say(f"warning: {file} is damaged, and left out")
        return []

    @property
    def records(self) -> dict[str, dict[str, Any] | None]:
        return dict(zip(RECORDS, (self.training, self.report, self.selection)))

    @property
    def digest(self) -> str:
        """Of what the records and the configuration say: 16 hexadecimal digits."""
        said = {**self.records, "config": self.config and to_mapping(self.config)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def damage_named(self) -> Iterator[None]:
        """While entered, what a damaged record raises is BadInput."""
        try:
            yield
        except BadInput:
            raise
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise BadInput(f"{self.home}: one of {', '.join(RECORDS)} is damaged ({error!r}); make it again") from error

    @property
    def picture_of_choice(self) -> Path | None:
        """The picture that was written with selection.json."""
        record = self.find("selection.json")
        folders = (record.parent, record.parent / PICTURES) if record else ()
        return next((file for folder in folders if (file := folder / "selection.png").is_file()), None)

    @cached_property
    def notes(self) -> str:
        """The author's own words, as Markdown; empty where there are none."""
        file = self.find(NOTES)
        try:
            return file.read_text(encoding="utf-8").strip() if file else ""
        except (OSError, ValueError) as error:
            raise BadInput(f"{file} cannot be read: {first_line(error)}; valid: text in UTF-8") from error

    @cached_property
    def fingerprint(self) -> str:
        return weights_fingerprint(self.pipeline.unet)

    def find(self, name: str) -> Path | None:
        """One of the files: in the model's home, or where `make demo` lets `hfdiff select` put what it chose."""
        places = (self.home / name, self.home / "best" / name, self.home / PICTURES / name)
        return next((place for place in places if place.is_file()), None)

    def read(self, name: str) -> dict[str, Any] | None:
        file = self.find(name)
        if file is None:
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return public(found)
            reason = f"it holds a {type(found).__name__}"
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error)
        raise BadInput(f"{file} is damaged: {reason}; make it again, or delete it")

    def measured(self, name: str, weights: Callable[[dict[str, Any]], str]) -> dict[str, Any] | None:
        """A report, where it is of these weights."""
        found = self.read(name)
        try:
            if found is None or weights(found) == self.fingerprint:
                return found
        except (KeyError, TypeError):
            pass
        self.say(f"warning: {self.find(name)} is of other weights than this model's, and left out; measure again")
        return None


def check_links(home: Path, pipeline: Path) -> None:
    """BadInput where a link in a stranger's folder leads to what is none of theirs, and would be published."""
    own = (home / name for name in ("README.md", "config.yaml", "metrics.jsonl", NOTES, *RECORDS))
    folders = (pipeline, home / PICTURES, home / "best")
    out = [link for folder in folders if (link := link_out(folder))]
    if out := [*out, *(path for path in (*folders, *own) if not is_inside(path, (home,)))]:
        raise BadInput(f"{out[0]} is a link that leads out of the folder {home}; copy what it stands for")


def write_card(facts: Facts, name: str | None = None) -> Path:
    """Write README.md and its pictures into the model's home; `name` is what others load the model by."""
    folder_to_write(str(facts.home / PICTURES), "MODEL")
    file_to_write(str(facts.readme), "MODEL")
    with as_bad_input():  # a sampler that this pipeline cannot draw with
        pictures = list(draw_pictures(facts))
    chosen = facts.picture_of_choice if facts.selection else None
    if chosen:
        check_picture(chosen, "hfdiff select makes it")
    with facts.damage_named():
        card = str(render(facts, pictures, name or find_pipeline(facts.model), bool(chosen))).encode()
    warn_of_licence(facts)
    for shown in pictures:
        shown.write(facts.home / PICTURES)
    if chosen:
        write_file(facts.home / PICTURES / "selection.png", chosen.read_bytes())
    write_file(facts.readme, card)
    return facts.readme


def warn_of_licence(facts: Facts) -> None:
    """Say so where the card that is there names another license than the configuration, which counts."""
    with contextlib.suppress(BadInput):
        old = read_card(facts.readme).data.get("license") if facts.readme.is_file() else None
        if old and old != facts.licence:
            facts.say(f"warning: the card said license {old}; {facts.home / 'config.yaml'} says {facts.licence}")


def check_picture(file: Path, mend: str) -> None:
    """BadInput for what is no picture, whatever it is called."""
    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{file} is no picture: {first_line(error)}; {mend}") from error


def read_card(readme: Path) -> ModelCard:
    hub_logging.set_verbosity_error()  # one line of ours says it
    try:
        return ModelCard.load(readme)
    except (OSError, AttributeError, LookupError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{readme} is no model card: {first_line(error)[:200]}; hfdiff card writes one") from error


def draw_pictures(facts: Facts) -> Iterator[Shown]:
    """The grid of classes and styles, and the curves where a run has left any."""
    pipeline = facts.pipeline
    pipeline.set_progress_bar_config(disable=True)
    if device := torch.accelerator.current_accelerator():
        pipeline.to(device)
    yield classes_and_styles(pipeline, range(min(MAX_CLASSES, len(pipeline.class_names))), seed=0)
    yield from curves(facts.home / "metrics.jsonl", lambda text: None)


def render(facts: Facts, pictures: Sequence[Shown], name: str, chosen: bool) -> ModelCard:
    """The card; the first picture is the grid, the others are curves. `chosen`: is there one of CLIP's choice?"""
    pipeline, training, report, selection = facts.pipeline, facts.training, facts.report, facts.selection
    title = Path(name).name
    title = facts.name if title in ("", "pipeline") else title
    return ModelCard.from_template(
        card_data(facts, title),
        template_path=str(TEMPLATE),
        title=plain(title),
        summary=summary(pipeline),
        grid=pictures[0],
        alt=plain(pictures[0].alt),
        curves=pictures[1:],
        needs=" ".join(map(code, NEEDS)),
        name=code(name),
        some_classes=code(pipeline.class_names[:2]),
        one_class=code(pipeline.class_names[:1]),
        some_styles=code(some_styles(pipeline)),
        picture=f"{slug(pipeline.class_names[0]) or 'picture'}.png",
        clip=pipeline.clip_model is not None,
        classes=", ".join(map(plain, pipeline.class_names)),
        styles=", ".join(map(plain, pipeline.style_names)),
        data=data_section(facts),
        training=training_section(facts),
        command=training and training["command"],
        versions=training and plain(", ".join(f"{key} {value}" for key, value in training["versions"].items())),
        protocol=report and protocol_line(report),
        metrics=report and metrics_table(report),
        per_style=report and style_table(report),
        selection=selection and selection_table(selection),
        selection_protocol=selection and selection_line(selection),
        chosen=chosen,
        findings=list(findings(facts)),
        notes=facts.notes,
    )


def card_data(facts: Facts, title: str) -> ModelCardData:
    """What the Hub reads: the words it sorts by, and every metric with its circumstances."""
    dataset = hub_id(facts.training["data"]["name"]) if facts.training else None
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK,
        license=facts.licence,
        tags=list(TAGS),
        datasets=[dataset] if dataset else None,
        model_name=title,
        eval_results=eval_results(facts.report) if facts.report else None,
        weights=facts.fingerprint,
        records=facts.digest,
    )


def hub_id(dataset: str) -> str | None:
    """The id on the Hub of a data set by the name of its table; None for a folder, whose name ends in a slash."""
    if dataset in DATASETS:
        return DATASETS[dataset].hub_id
    try:
        validate_repo_id(dataset)
        return dataset
    except HFValidationError:
        return None


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """A row of the Hub's model-index for each metric."""
    protocol = report["protocol"]
    settings = ("seed", "weights", "selection", "sampler", "spacing", *SETTINGS)
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=hub_id(protocol["dataset"]) or protocol["dataset"],
            dataset_name=protocol["dataset"],
            dataset_split=protocol["split"],
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=metric["value"],
            metric_args={key: metric[key] for key in ("n", "extractor", "floor", "floor_n", "ci95")}
            | {key: protocol[key] for key in settings},
        )
        for name, metric in report["metrics"].items()
    ]


def summary(pipeline: ClassStylePipeline) -> str:
    config = pipeline.unet.config
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    kind = "grey" if config.in_channels == 1 else "colour"
    classes, styles = len(pipeline.class_names), len(pipeline.style_names)
    by_style = f"**by class and by style**: {classes} classes, {styles} styles with strengths"
    return (
        f"A diffusion model of {pipeline.unet.num_parameters():,} parameters that draws {kind} pictures of "
        f"{width}x{height} pixels {by_style if styles else f'**by class**: {classes} classes'}. Made with hfdiff."
    )


def some_styles(pipeline: ClassStylePipeline) -> list[Any]:
    """One style for each of the classes of the example."""
    names = pipeline.style_names
    styles: list[Any] = [{names[0]: 0.8}, names[-1]] if names else ["plain", "plain"]
    return styles[: len(pipeline.class_names)]


def data_section(facts: Facts) -> str:
    if facts.training is None:
        return "Not recorded."
    data = facts.training["data"]
    dataset = hub_id(data["name"])
    source = f"a folder called {plain(data['name'])}"
    if dataset:
        source = f"[{dataset}](https://huggingface.co/datasets/{dataset})"
    text = f"{data['pictures']:,} pictures of {source}, {range_of(data['classes'])} of each class."
    return f"{text}{origin_of_styles(facts)} Fingerprint `{data['fingerprint']}`."


def origin_of_styles(facts: Facts) -> str:
    """Which styles are transforms of the pictures, and which the data told."""
    if not facts.config:
        return ""
    names = facts.pipeline.style_names
    made = ", ".join(plain(name) for name in names if name in facts.config.styles)
    told = ", ".join(plain(name) for name in names if name not in facts.config.styles)
    text = f" Transforms of the pictures at random strengths, which the model is told, make the styles {made}."
    return (text if made else "") + (f" With the data come the styles {told}." if told else "")


def range_of(counts: Mapping[str, int]) -> str:
    least, most = min(counts.values()), max(counts.values())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def training_section(facts: Facts) -> str:
    """How the weights came about, as a table."""
    rows: list[tuple[str, Any]] = []
    if record := facts.training:
        processes = f", {record['processes']} processes" if record["processes"] > 1 else ""
        rows += [
            ("training pictures seen", f"{record['images']:,} in {record['steps']:,} steps"),
            ("weights kept", f"averaged, at {record['best_images']:,}: the best by {record['best_by']}"),
            ("time of all launches", f"{record['seconds'] / 60:.1f} minutes"),
            ("hardware of the last", record["device"] + processes),
            ("precision", {"no": "float32"}.get(record["precision"], record["precision"])),
        ]
    if facts.config:
        side = facts.pipeline.unet.config.sample_size
        try:
            choices = asdict(resolved(facts.config, side if isinstance(side, int) else max(side)))
        except BadInput as error:
            raise BadInput(f"{facts.home / 'config.yaml'}: {error}") from error
        used = {key: value for key, value in choices.items() if value not in (None, "auto") and value is not False}
        rows += [(key, used[key]) for key in RECIPE if key in used]
    rows += [("sampler", sampler_of(facts.pipeline.scheduler))]
    return table(["", ""], [[name, plain(str(value))] for name, value in rows])


def protocol_line(report: Mapping[str, Any]) -> str:
    protocol, judge = report["protocol"], report["protocol"]["judge"]
    seen = f", trained on the {judge['half_seen']} half of the training pictures" if judge["half_seen"] else ""
    mind = "".join(f" Mind that {line}." for line in chosen_by(protocol))
    return (
        f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, drawn blindly: none was chosen. "
        f"Seed {protocol['seed']:d}, sampler {plain(protocol['sampler'])}, {plain(settings_line(protocol))}; against "
        f"{protocol['reference_n']:,} real pictures of the {plain(protocol['split'])} split of "
        f"{plain(protocol['dataset'])}. "
        f"The judge is a small classifier that never chose any of them{seen}; it is right on "
        f"{number(judge['accuracy'])} of those real pictures. Its distances compare with no other network's, "
        f"Inception's among them.{mind}"
    )


def settings_line(protocol: Mapping[str, Any]) -> str:
    """The pipeline's arguments of a report: the usual three, and what is not as by default."""
    parameters = inspect.signature(ClassStylePipeline.__call__).parameters
    usual = ("num_inference_steps", "guidance_scale", "style_guidance_scale")
    default = {key: parameters[key].default for key in SETTINGS}
    default["guidance_interval"] = [0.0, "inf"]  # JSON knows no infinity
    default["spacing"] = "auto"
    return ", ".join(f"{key} {protocol[key]}" for key in default if key in usual or protocol[key] != default[key])


def metrics_table(report: Mapping[str, Any]) -> str:
    rows = []
    for name, metric in report["metrics"].items():
        interval = "" if metric["ci95"] is None else f"{number(metric['ci95'][0])} to {number(metric['ci95'][1])}"
        about, better = (METRICS[name].about, METRICS[name].better) if name in METRICS else ("", "")
        floor = f"{number(metric['floor'])} (n {metric['floor_n']:,})" if metric["floor"] is not None else ""
        measured = [number(metric["value"]), interval, f"{metric['n']:,}", floor]
        rows.append([f"`{plain(name)}`", about, better, *measured])
    return table(["metric", "is", "better", "samples", "95%", "n", "real pictures"], rows)


def style_table(report: Mapping[str, Any]) -> str | None:
    """How well each style is followed."""
    metric = report["metrics"].get("style_fidelity")
    if not metric:
        return None
    keys = ("spearman", "floor_spearman", "class_accuracy", "floor_class_accuracy")
    rows = [[plain(s), *(number(row[key]) for key in keys), f"{row['n']:,}"] for s, row in metric["per_style"].items()]
    heads = [
        "style",
        "strength asked and measured (Spearman)",
        "real pictures",
        "class accuracy in it",
        "real pictures",
    ]
    return table([*heads, "n"], rows)


def selection_line(selection: Mapping[str, Any]) -> str:
    judge, told, clip = selection["judge"], "", selection["clip"]
    known = clip.get("trained_on")
    by = f"a small CLIP model that was trained on {plain(known)}" if known else plain(clip["name"])
    if judge and selection["judge_is_independent"]:
        told = (
            " What the judge says of them is told beside: it saw other pictures than CLIP, and is right on "
            f"{number(judge['accuracy_on_real'])} of real ones."
        )
    prompts = selection["prompts"]["quality"]
    good, bad = (
        " and ".join(f"“{plain(text)}”" for text in prompts if prompts[text] is kind) for kind in (True, False)
    )
    return (
        f"the {selection['top_k']:d} of {selection['num_candidates']:d} candidates of each class that {by} likes best "
        f"(seed {selection['seed']:d}).{told} Good by CLIP: the share of the candidates that are nearer to {good} "
        f"than to {bad}."
    )


def selection_table(selection: Mapping[str, Any]) -> str:
    trusted = selection["judge"] and selection["judge_is_independent"]
    rows = []
    for name, entry in selection["classes"].items():
        for style, row in entry["by_style"].items():
            right = [share_of(row["right"], key) if trusted else "" for key in ("random", "best")]
            rows.append([plain(name), plain(style), f"{row['n']:,}", number(row["high_quality_share"]), *right])
    heads = ["class", "style", "candidates", "good by CLIP", "right by the judge: at random", "the best"]
    return table(heads, rows)


def share_of(right: Mapping[str, Any], kind: str) -> str:
    """A share and what it is of; nothing where it is not known."""
    told, count = number(right[kind]), right.get(f"n_{kind}")
    return f"{told} (n {count})" if told and count else told


def findings(facts: Facts) -> Iterator[str]:
    """What a reader must know before use, from the report."""
    metrics = facts.report["metrics"] if facts.report else {}
    if accuracy := metrics.get("class_accuracy"):
        worst = sorted(accuracy["per_class"].items(), key=lambda item: item[1])[:3]
        told = [f"{plain(name)} {number(share)}{mistaken(facts, accuracy, name)}" for name, share in worst]
        yield f"Classes that come out right least often: {', '.join(told)}."
    if fidelity := metrics.get("style_fidelity"):
        style, row = min(fidelity["per_style"].items(), key=lambda item: item[1]["spearman"])
        yield f"The style that is followed least: {plain(style)}, Spearman {number(row['spearman'])}."
    if precision := metrics.get("precision"):
        weak = "A weak model: only " if precision["value"] < precision["floor"] / 2 else ""
        yield (
            f"{weak}{number(precision['value'])} of samples lie among real pictures in the judge's features (of other "
            f"real ones {number(precision['floor'])}): a judge is easier to please than an eye."
        )
    if recall := metrics.get("recall"):
        weak = "A weak model in its variety" if recall["value"] < recall["floor"] / 2 else "Variety"
        yield (
            f"{weak}: samples come near to {number(recall['value'])} of real pictures (other real ones: "
            f"{number(recall['floor'])}); stronger guidance makes this worse."
        )
    if copied := metrics.get("memorisation"):
        others = plain(copied.get("threshold_of", "real pictures"))
        yield (
            f"Memorisation: {number(copied['value'])} of {copied['n']:,} samples are nearer to one of "
            f"{copied['searched_n']:,} training pictures than 99% of {others} are "
            f"(other real ones: {number(copied['floor'])})."
        )
    else:
        yield "Whether the model repeats training pictures was not measured."
    if facts.training:
        yield (
            "The pictures are like the training data and share its bias; its classes have "
            f"{range_of(facts.training['data']['classes'])} pictures each, and drawing asks for each class alike."
        )
    if facts.selection:
        yield "CLIP chooses by what it knows: classes, styles, blur and noise, and not by taste or by truth."


def mistaken(facts: Facts, accuracy: Mapping[str, Any], name: str) -> str:
    """Of how many samples of a class, and what the judge most often takes them for."""
    names = facts.pipeline.class_names
    counts = dict(zip(names, accuracy["confusion"][names.index(name)]))
    others = counts | {name: 0}
    other = max(others, key=lambda key: others[key])
    return f" (n {sum(counts.values())}{f', most often taken for {plain(other)}' if others[other] else ''})"


def number(value: float | None) -> str:
    """Four significant digits and no exponent; nothing for what is not known."""
    if value is None or not math.isfinite(value):
        return ""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


def code(value: Any) -> str:
    """Text, lists and strengths, as Python and JSON both write them."""
    return json.dumps(value, ensure_ascii=False)


def plain(text: str) -> str:
    """Someone's name in a line of Markdown, where none of its signs means anything."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def public(value: Any, key: str = "") -> Any:
    """A record's values without what they say of the machine."""
    if isinstance(value, dict):
        return {key: public(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if isinstance(value, str):
        return public_command(value) if key == "command" else public_path(value)
    return value


def public_command(command: str) -> str:
    """A command without what it says of a machine: of a path from outside, only the last part stays."""
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(flag + equals + public_path(value))
    return shlex.join(words)


def public_path(text: str) -> str:
    """The last part of a path from outside the current folder; any other text as it is."""
    outside = text.startswith(("/", "~", "file:")) or ".." in Path(text).parts
    return Path(text).name if outside else text
