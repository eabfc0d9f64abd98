"""The sentences and tables of a card."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfdiff.core.errors import ESCAPES, BadInput
from hfdiff.data.registry import DATASETS
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.report import chosen_by, doubts, first_screen, number, rest_of, strongest_leak
from hfdiff.models.objectives import resolve_objective
from hfdiff.models.samplers import sampler_of
from hfdiff.pipelines import SAMPLING_DEFAULTS, ClassStylePipeline
from hfdiff.publish.records import ModelRecords

RECIPE = (
    "objective schedule zero_terminal_snr flow_shift loss_weight min_snr_gamma time_sampling stratified learning_rate "
    "lr_schedule batch_size gradient_accumulation_steps weight_decay ema_share drop_class drop_style drop_both "
    "style_share flip augment dropout init_from seed"
).split()

# What Markdown, in the Hub's kind as in GitHub's, may take for more than itself; _ and # only where they can mean it.
SIGNS = r"[\\`*~$&<>|\[\]]|@(?=\w)|(?<![^\W_])_|_(?![^\W_])|(?<!\S)#|:(?=//)|(?<=www)\."


def hub_id(dataset: str) -> str | None:
    """The id on the Hub of a dataset by the name of its table; None for a folder, whose name ends in a slash."""
    if dataset in DATASETS:
        return DATASETS[dataset].hub_id
    try:
        validate_repo_id(dataset)
        return dataset
    except HFValidationError:
        return None


def summary(pipeline: ClassStylePipeline) -> str:
    config = pipeline.unet.config
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    kind = "grey" if config.in_channels == 1 else "colour"
    classes, styles = len(pipeline.class_names), len(pipeline.style_names)
    by_style = f"**by class and by style**: {classes} classes, {styles} styles with strengths"
    return (
        f"A diffusion model of {pipeline.unet.num_parameters():,} parameters that draws {kind} images of "
        f"{width}x{height} pixels {by_style if styles else f'**by class**: {classes} classes'}. Made with hfdiff."
    )


def some_styles(pipeline: ClassStylePipeline) -> list[Any]:
    """One style for each of the classes of the example."""
    names = pipeline.style_names
    styles: list[Any] = [{names[0]: 0.8}, names[-1]] if names else ["plain", "plain"]
    return styles[: len(pipeline.class_names)]


def data_section(records: ModelRecords) -> str:
    if records.training is None:
        return "Not recorded."
    data = records.training["data"]
    dataset = hub_id(data["name"])
    source = f"a folder called {plain(data['name'])}"
    if dataset:
        source = f"[{dataset}](https://huggingface.co/datasets/{dataset})"
    text = f"{data['pictures']:,} images of {source}, {range_of(data['classes'])} of each class."
    return f"{text}{origin_of_styles(records)} Fingerprint `{data['fingerprint']}`."


def origin_of_styles(records: ModelRecords) -> str:
    """Which styles are transforms of the images, and which came with the data."""
    if not records.config:
        return ""
    names = records.pipeline.style_names
    made = ", ".join(plain(name) for name in names if name in records.config.styles)
    said = ", ".join(plain(name) for name in names if name not in records.config.styles)
    text = f" Transforms of the images at random strengths, which the model is conditioned on, make the styles {made}."
    return (text if made else "") + (f" With the data come the styles {said}." if said else "")


def range_of(counts: Mapping[str, int]) -> str:
    least, most = min(counts.values()), max(counts.values())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def weights_kept(record: Mapping[str, Any]) -> str:
    which = "the last" if record["best_score"] is None else f"the best by {record['best_by']}"
    return f"EMA, at {record['best_images']:,}: {which}"


def training_section(records: ModelRecords) -> str:
    """How the weights came about, as a table."""
    rows: list[tuple[str, Any]] = []
    if record := records.training:
        processes = f", {record['processes']} processes" if record["processes"] > 1 else ""
        rows += [
            ("training images seen", f"{record['images']:,} in {record['steps']:,} steps"),
            ("weights kept", weights_kept(record)),
            ("time of all launches", f"{record['seconds'] / 60:.1f} minutes"),
            ("hardware of the last", record["device"] + processes),
            ("precision", {"no": "float32"}.get(record["precision"], record["precision"])),
        ]
    if records.config:
        side = records.pipeline.unet.config.sample_size
        try:
            choices = asdict(resolve_objective(records.config, side if isinstance(side, int) else max(side)))
        except BadInput as error:
            raise BadInput(f"{records.home / 'config.yaml'}: {error}") from error
        used = {key: value for key, value in choices.items() if value not in (None, "auto") and value is not False}
        rows += [(key, used[key]) for key in RECIPE if key in used]
    rows += [("sampler", sampler_of(records.pipeline.scheduler))]
    if record and record.get("settings"):
        rows += [("guidance and steps", settings_sentence(record["settings"]))]
    return table(["", ""], [[name, plain(str(value))] for name, value in rows])


def settings_sentence(settings: Mapping[str, Any]) -> str:
    """How the settings that the model keeps were chosen."""
    chosen = ", ".join(setting(key, value) for key, value in settings["chosen"].items())
    sentence = f"{chosen}: {settings['by']}"
    if "tried" in settings:
        sentence += (
            f"; n = {settings['n']:,}, seed {settings['seed']}, beside {settings['reference_n']:,} training images "
            "that the judge never saw"
        )
    return sentence


def protocol_sentence(report: Mapping[str, Any]) -> str:
    protocol, judge = report["protocol"], report["protocol"]["judge"]
    seen = f", trained on the {judge['half_seen']} half of the training images" if judge["half_seen"] else ""
    mind = "".join(f" Note that {line}." for line in chosen_by(protocol))
    return (
        f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, unselected. "
        f"Seed {protocol['seed']:d}, sampler {plain(protocol['sampler'])}, {plain(settings_line(protocol))}; against "
        f"{protocol['reference_n']:,} real images of the {plain(protocol['split'])} split of "
        f"{plain(protocol['dataset'])}. "
        f"The judge, the evaluation classifier{seen}, chose none of them; it is right on "
        f"{number(judge['accuracy'])} of those real images. Its distances compare with no other network's, "
        f"Inception's among them.{mind}"
    )


def settings_line(protocol: Mapping[str, Any]) -> str:
    """The pipeline's arguments of a report: the usual three, and what is not as by default."""
    usual = ("num_inference_steps", "guidance_scale", "style_guidance_scale")
    # JSON knows no infinity
    default = {**SAMPLING_DEFAULTS, "guidance_interval": [0.0, "inf"], "spacing": "auto"}
    return ", ".join(setting(key, protocol[key]) for key in default if key in usual or protocol[key] != default[key])


def setting(key: str, value: Any) -> str:
    """An argument of the pipeline and its value; an interval as from its least to its greatest."""
    return f"{key} {' to '.join(map(str, value)) if isinstance(value, list) else value}"


def first_screen_table(report: Mapping[str, Any]) -> str:
    """The five numbers that a person can act on."""
    rows = []
    for headline in first_screen(report):
        name, *cells = map(plain, headline.cells)
        rows.append([f"**{name}**: {headline.about}", *cells])
    return table(["", "samples", "95%", "real images", "n", "what it says"], rows)


def metrics_table(report: Mapping[str, Any]) -> str:
    """The metrics that are not on the first screen."""
    rows = []
    for name, metric in rest_of(report).items():
        shown, about, better = plain(name), "", ""
        if name in METRICS:
            shown, about, better = f"`{name}`", METRICS[name].about, METRICS[name].better
        real = f"{number(metric['real'])} (n {metric['real_n']:,})" if metric["real"] is not None else ""
        measured = [number(metric["value"]), interval(metric["ci95"]), f"{metric['n']:,}", real]
        rows.append([shown, about, better, *measured])
    return table(["metric", "is", "better", "samples", "95%", "n", "real images"], rows)


def style_table(report: Mapping[str, Any]) -> str | None:
    """How well each style is followed."""
    metric = report["metrics"].get("style_fidelity")
    if not metric:
        return None
    keys = (
        "slope",
        "real_slope",
        "spearman",
        "real_spearman",
        "class_accuracy",
        "real_class_accuracy",
    )
    rows = [
        [plain(style), *(number(row.get(key)) for key in keys), leak(row), f"{row['n']:,}"]
        for style, row in metric["per_style"].items()
    ]
    heads = ["slope of strength measured over asked", "rank correlation (Spearman)", "class accuracy in it"]
    beside = [cell for head in heads for cell in (head, "real images")]
    return table(["style", *beside, "moves along most", "n"], rows)


def leak(row: Mapping[str, Any]) -> str:
    """The style whose measured strength moves most where another one is asked for, how far, and in real images."""
    moved = strongest_leak(row)
    if moved is None:
        return ""
    style, distance = moved
    real = (row.get("real_leakage") or {}).get(style)
    return f"{plain(style)} {number(distance)}" + ("" if real is None else f" (real images {number(real)})")


def selection_line(selection: Mapping[str, Any]) -> str:
    judge, said, clip = selection["judge"], "", selection["clip"]
    known = clip.get("trained_on")
    by = f"a small CLIP model that was trained on {plain(known)}" if known else plain(clip["name"])
    if judge and selection["judge_is_independent"]:
        said = (
            " What the judge predicts for them stands beside: it saw other images than CLIP, and is right on "
            f"{number(judge['accuracy_on_real'])} of real ones.{gain_line(selection.get('right'))}"
        )
    prompts = selection["prompts"]["quality"]
    good, bad = (
        " and ".join(f"“{plain(text)}”" for text in prompts if prompts[text] is kind) for kind in (True, False)
    )
    return (
        f"the {selection['top_k']:d} of {selection['num_candidates']:d} candidates of a class that {by} ranks highest "
        f"(seed {selection['seed']:d}).{said} Good by CLIP: the share of the candidates that are nearer to {good} "
        f"than to {bad}."
    )


def gain_line(right: Mapping[str, Any] | None) -> str:
    """What the judge says of the choice, over all classes and styles: a class alone has too few."""
    if right is None:
        return ""
    return (
        f" Over all rows it puts {number(right['best'])} of the {right['n_best']:,} chosen into their class, and "
        f"{number(right['random'])} of the {right['n_random']:,} candidates that they were chosen from: a difference "
        f"of {number(right['difference'])} (95% interval {interval(right['ci95'])}). A row alone has too few to tell."
    )


def interval(bounds: Sequence[float] | None) -> str:
    return " to ".join(map(number, bounds or ()))


def selection_table(selection: Mapping[str, Any]) -> str:
    trusted = selection["judge"] and selection["judge_is_independent"]
    rows = []
    for name, entry in selection["classes"].items():
        for style, row in entry["by_style"].items():
            right = [share_of(row["right"], key) if trusted else "" for key in ("random", "best")]
            quality = [number(row["high_quality_share"]), interval(row.get("high_quality_ci95"))]
            rows.append([plain(name), plain(style), f"{row['n']:,}", *quality, *right])
    heads = [
        "class",
        "style",
        "candidates",
        "good by CLIP",
        "95% interval",
        "right by the judge: at random",
        "the best",
    ]
    return table(heads, rows)


def share_of(right: Mapping[str, Any], kind: str) -> str:
    """A share and what it is of; nothing where it is not known."""
    said, count = number(right[kind]), right.get(f"n_{kind}")
    return f"{said} (n {count})" if said and count else said


def findings(records: ModelRecords) -> Iterator[str]:
    """What a reader must know before use, from the report."""
    metrics = records.report["metrics"] if records.report else {}
    if records.report:
        for doubt in doubts(records.report.get("protocol", {}).get("judge") or {}):
            yield f"Independence of the judge: {plain(doubt)}."
    if accuracy := metrics.get("class_accuracy"):
        worst = sorted(accuracy["per_class"].items(), key=lambda item: item[1])[:3]
        said = [f"{plain(name)} {number(share)}{mistaken(records, accuracy, name)}" for name, share in worst]
        yield f"Classes that come out right least often: {', '.join(said)}."
    if precision := metrics.get("precision"):
        weak = "Low quality: only " if precision["value"] < precision["real"] / 2 else ""
        yield (
            f"{weak}{number(precision['value'])} of samples lie among real images in the judge's features (of other "
            f"real ones {number(precision['real'])}): a judge is easier to please than an eye."
        )
    if not metrics:
        yield "Whether the model repeats training images was not measured."
    if records.training:
        yield (
            "The images are like the training data and share its bias; its classes have "
            f"{range_of(records.training['data']['classes'])} images each, and drawing asks for each class alike."
        )
    if records.selection:
        yield "CLIP chooses by what it knows: classes, styles, blur and noise, and not by taste or by truth."


def mistaken(records: ModelRecords, accuracy: Mapping[str, Any], name: str) -> str:
    """Of how many samples of a class, and what the judge most often takes them for."""
    names = records.pipeline.class_names
    counts = dict(zip(names, accuracy["confusion"][names.index(name)]))
    others = counts | {name: 0}
    other = max(others, key=lambda key: others[key])
    return f" (n {sum(counts.values())}{f', most often taken for {plain(other)}' if others[other] else ''})"


def code(value: Any) -> str:
    """Text, lists and strengths, as Python writes them, and JSON nearly so."""
    return json.dumps(value, ensure_ascii=False).translate(ESCAPES)


def plain(text: str) -> str:
    """Someone's name in a line of Markdown, where none of its signs means anything: no HTML, link or formula.

    As HTML writes characters: the Hub's formulas begin with backslashes too.
    """
    return re.sub(SIGNS, lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()).translate(ESCAPES))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))
