"""A model's card, written from the files of its run: every number in it stands in one of them.

What was not measured does not appear; what was measured of other weights is left out, with a word.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfdiff.checkpoint import find_pipeline, home_of, load_pipeline, run_config, weights_fingerprint
from hfdiff.data import DATASETS
from hfdiff.errors import BadInput
from hfdiff.evaluation import METRICS
from hfdiff.files import slug, write_file
from hfdiff.pipelines.class_style import ClassStylePipeline
from hfdiff.samplers import sampler_of
from hfdiff.show import Shown, classes_and_styles, curves
from hfdiff.training import TrainConfig

TEMPLATE = Path(__file__).parent / "templates" / "card.md"
PICTURES = "card"  # the folder beside README.md
TASK = "unconditional-image-generation"  # the Hub has no word for drawing by class
TAGS = ("diffusers", "hfdiff", "image-generation", "class-conditional", "style")
RECIPE = (
    "objective schedule loss_weight time_sampling learning_rate lr_schedule batch_size gradient_accumulation_steps "
    "weight_decay ema_share drop_class drop_style drop_both style_share flip augment dropout init_from seed"
).split()


@dataclass(frozen=True)
class Facts:
    """What is known of a model, as its files say it."""

    model: str  # as the user named it
    home: Path  # the folder of those files
    pipeline: ClassStylePipeline
    say: Callable[[str], None] = print

    @classmethod
    def of(cls, model: str) -> "Facts":
        """BadInput for what is no folder with a pipeline."""
        pipeline, home = load_pipeline(model), home_of(model)
        if home is None:
            raise BadInput(f"{model!r} is no folder on this machine; a card is written from a run's or a model's files")
        return cls(model, home, pipeline)

    @cached_property
    def config(self) -> TrainConfig | None:
        return run_config(self.model)

    @cached_property
    def training(self) -> dict[str, Any] | None:
        return self.read("training.json")

    @cached_property
    def report(self) -> dict[str, Any] | None:
        return self.measured("metrics.json", lambda found: found["protocol"]["weights"])

    @cached_property
    def selection(self) -> dict[str, Any] | None:
        return self.measured("selection.json", lambda found: found["weights"])

    def find(self, name: str) -> Path | None:
        """One of the files: in the model's home, or where `hfdiff select` puts what it chose in `make demo`."""
        places = (self.home / name, self.home / "best" / name, self.home / PICTURES / name)
        return next((place for place in places if place.is_file()), None)

    def read(self, name: str) -> dict[str, Any] | None:
        file = self.find(name)
        if file is None:
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
            reason = f"it holds a {type(found).__name__}"
        except (OSError, ValueError) as error:
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

    @cached_property
    def fingerprint(self) -> str:
        return weights_fingerprint(self.pipeline.unet)


def write_card(facts: Facts, name: str | None = None) -> Path:
    """Write README.md and its pictures into the model's home; `name` is what others load the model by."""
    pictures = list(draw_pictures(facts))
    for shown in pictures:
        shown.write(facts.home / PICTURES)
    chosen = facts.find("selection.png")
    if facts.selection and chosen:
        write_file(facts.home / PICTURES / "selection.png", chosen.read_bytes())
    readme = facts.home / "README.md"
    write_file(readme, str(render(facts, pictures, name or find_pipeline(facts.model))).encode())
    return readme


def draw_pictures(facts: Facts) -> Iterator[Shown]:
    """The grid of classes and styles, and the curves where a run has left any."""
    pipeline = facts.pipeline
    pipeline.set_progress_bar_config(disable=True)
    yield classes_and_styles(pipeline, range(min(10, len(pipeline.class_names))), seed=0)
    yield from curves(facts.home / "metrics.jsonl", lambda text: None)


def render(facts: Facts, pictures: Sequence[Shown], name: str) -> ModelCard:
    """The card; the first picture is the grid, the others are curves."""
    pipeline = facts.pipeline
    title = Path(name).name if "/" not in name or Path(name).exists() else name.rpartition("/")[2]
    title = facts.home.name if title == "pipeline" else title
    return ModelCard.from_template(
        card_data(facts, title),
        template_path=str(TEMPLATE),
        title=title,
        name=name,
        summary=summary(facts),
        grid=pictures[0],
        curves=pictures[1:],
        some_classes=pipeline.class_names[:2],
        some_styles=some_styles(pipeline),
        picture=f"{slug(pipeline.class_names[0])}.png",
        clip=pipeline.clip_model is not None,
        classes=", ".join(pipeline.class_names),
        styles=", ".join(f"`{style}`" for style in pipeline.style_names) or "none",
        data=data_section(facts),
        training=training_section(facts),
        command=facts.training and public_command(facts.training["command"]),
        versions=facts.training and ", ".join(f"{key} {value}" for key, value in facts.training["versions"].items()),
        protocol=facts.report and protocol_line(facts.report),
        metrics=facts.report and metrics_table(facts.report),
        per_style=facts.report and style_table(facts.report),
        no_metrics="Nothing was measured: whether the model draws what it is asked for is not known.",
        selection=facts.selection and selection_table(facts.selection),
        selection_protocol=facts.selection and selection_line(facts.selection),
        selection_alt="The best and the worst candidates of each class, with their total scores.",
        findings=list(findings(facts)),
    )


def card_data(facts: Facts, title: str) -> ModelCardData:
    """What the Hub reads: the words it sorts by, and every metric with its circumstances."""
    dataset = hub_id(facts.config.dataset if facts.config else None)
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK,
        license=facts.config.license if facts.config else TrainConfig.license,
        tags=list(TAGS),
        datasets=[dataset] if dataset else None,
        model_name=title,
        eval_results=eval_results(facts.report) if facts.report else None,
    )


def hub_id(dataset: str | None) -> str | None:
    """The id on the Hub of a data set as a configuration names it; None for a folder of someone's own."""
    source = DATASETS[dataset].hub_id if dataset in DATASETS else dataset
    return source if source and re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists() else None


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """A row of the Hub's model-index for each metric."""
    protocol = report["protocol"]
    dataset = hub_id(protocol["dataset"]) or protocol["dataset"]
    settings = ("seed", "sampler", "num_inference_steps", "guidance_scale", "style_guidance_scale", "selection")
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset,
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


def summary(facts: Facts) -> str:
    config = facts.pipeline.unet.config
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    kind = "grey" if config.in_channels == 1 else "colour"
    parameters = facts.pipeline.unet.num_parameters()
    return (
        f"A diffusion model of {parameters:,} parameters that draws {kind} pictures of {width}x{height} pixels "
        f"**by class and by style**: {len(facts.pipeline.class_names)} classes, "
        f"{len(facts.pipeline.style_names)} styles with strengths, several at once. Made with hfdiff."
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
    counts = data["classes"]
    dataset = hub_id(data["name"])
    source = (
        f"[{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else f"a folder called `{data['name']}`"
    )
    even = f"{min(counts.values()):,} to {max(counts.values()):,} of each class"
    return (
        f"{data['pictures']:,} pictures of {source}, {even}; fingerprint `{data['fingerprint']}`. Styles are made by "
        "transforms of the pictures at random strengths that the model is told, or come with the data."
    )


def training_section(facts: Facts) -> str:
    """How the weights came about, as a table."""
    rows: list[tuple[str, Any]] = []
    if facts.training:
        record = facts.training
        rows += [
            ("training pictures seen", f"{record['images']:,} in {record['steps']:,} steps"),
            ("weights kept", f"averaged, at {record['best_images']:,}: the best by {record['best_by']}"),
            ("time", f"{record['seconds'] / 60:.1f} minutes"),
            ("hardware", f"{record['device']}, {record['processes']} process(es)"),
            ("precision", {"no": "float32"}.get(record["precision"], record["precision"])),
        ]
    if facts.config:
        rows += [(key, getattr(facts.config, key)) for key in RECIPE]
    rows += [("sampler", sampler_of(facts.pipeline.scheduler))]
    return table(["", ""], [[name, str(value)] for name, value in rows])


def protocol_line(report: Mapping[str, Any]) -> str:
    protocol, judge = report["protocol"], report["protocol"]["judge"]
    seen = f", trained on the {judge['half_seen']} half of the training pictures" if judge["half_seen"] else ""
    return (
        f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, drawn blindly: none was chosen. "
        f"Seed {protocol['seed']}, sampler {protocol['sampler']}, {protocol['num_inference_steps']} steps, guidance "
        f"{protocol['guidance_scale']:g} (styles {protocol['style_guidance_scale']:g}); against "
        f"{protocol['reference_n']:,} real pictures of the {protocol['split']} split of {protocol['dataset']}. The "
        f"judge is a small classifier that never chose any of them{seen}; it is right on {judge['accuracy']:.4f} of "
        "those real pictures. Its distances compare with no other network's, Inception's among them."
    )


def metrics_table(report: Mapping[str, Any]) -> str:
    rows = []
    for name, metric in report["metrics"].items():
        interval = "" if metric["ci95"] is None else f"{number(metric['ci95'][0])} to {number(metric['ci95'][1])}"
        floor = "" if metric["floor"] is None else number(metric["floor"])
        about = METRICS[name].about if name in METRICS else ""
        rows.append([f"`{name}`", about, number(metric["value"]), interval, floor, f"{metric['n']:,}"])
    return table(["metric", "is", "samples", "95%", "real pictures", "n"], rows)


def style_table(report: Mapping[str, Any]) -> str | None:
    """How well each style is followed."""
    metric = report["metrics"].get("style_fidelity")
    if not metric:
        return None
    rows = [
        [style, *(number(row[key]) for key in ("spearman", "floor_spearman", "class_accuracy")), f"{row['n']:,}"]
        for style, row in metric["per_style"].items()
    ]
    heads = ["style", "strength asked and measured (Spearman)", "of real pictures", "class accuracy in it", "n"]
    return table(heads, rows)


def selection_line(selection: Mapping[str, Any]) -> str:
    clip, judge = selection["clip"]["name"], selection["judge"]
    told = ""
    if judge and selection["judge_is_independent"]:
        told = (
            f" What the judge says of them is told beside: it saw other pictures than CLIP, and is right on "
            f"{judge['accuracy_on_real']:.4f} of real ones."
        )
    return (
        f"the {selection['top_k']} of {selection['num_candidates']} candidates of each class that `{clip}` likes best "
        f"(seed {selection['seed']}).{told}"
    )


def selection_table(selection: Mapping[str, Any]) -> str:
    trusted = selection["judge"] and selection["judge_is_independent"]
    rows = []
    for name, entry in selection["classes"].items():
        for style, row in entry["by_style"].items():
            right = [row["right"][key] if trusted else None for key in ("random", "best")]
            rows.append([name, style, *map(number, (row["high_quality_share"], *right)), f"{row['n']:,}"])
    heads = ["class", "style", "high quality by CLIP", "right by the judge: at random", "the best", "candidates"]
    return table(heads, rows)


def findings(facts: Facts) -> Iterator[str]:
    """What a reader must know before use, from the report."""
    metrics = facts.report["metrics"] if facts.report else {}
    if accuracy := metrics.get("class_accuracy"):
        names, confusion = list(facts.pipeline.class_names), accuracy["confusion"]
        worst = sorted(accuracy["per_class"].items(), key=lambda item: item[1])[:3]
        told = []
        for name, share in worst:
            row = dict(zip(names, confusion[names.index(name)])) if name in names else {}
            wrong = {other: count for other, count in row.items() if other != name and count}
            taken = f" (most often taken for {max(wrong, key=lambda other: wrong[other])})" if wrong else ""
            told.append(f"{name} {number(share)}{taken}")
        yield f"Classes that come out right least often: {', '.join(told)}."
    if fidelity := metrics.get("style_fidelity"):
        style, row = min(fidelity["per_style"].items(), key=lambda item: item[1]["spearman"])
        yield f"The style that is followed least: {style}, Spearman {number(row['spearman'])}."
    if recall := metrics.get("recall"):
        yield (
            f"Variety: samples come near to {number(recall['value'])} of real pictures (other real ones: "
            f"{number(recall['floor'])}); stronger guidance makes this worse."
        )
    if copied := metrics.get("memorisation"):
        yield (
            f"Memorisation: {number(copied['value'])} of {copied['n']:,} samples are nearer to one of "
            f"{copied['searched_n']:,} training pictures than 99% of held-out real pictures are (real ones: "
            f"{number(copied['floor'])})."
        )
    else:
        yield "Whether the model repeats training pictures was not measured."
    if facts.training:
        counts = facts.training["data"]["classes"]
        yield (
            f"The pictures are like the training data and share its bias; its classes have {min(counts.values()):,} to "
            f"{max(counts.values()):,} pictures each, and drawing asks for each class alike."
        )
    yield "CLIP chooses by what it knows: classes, styles, blur and noise, and not by taste or by truth."


def number(value: float | None) -> str:
    """Four significant digits and no exponent; nothing for what is not known."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def public_command(command: str) -> str:
    """A command without what it says of a machine: of a path from outside, only the last part stays."""
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(flag + equals + public_path(value))
    return shlex.join(words)


def public_path(text: str) -> str:
    return Path(text).name if text.startswith(("/", "~", "..")) else text
