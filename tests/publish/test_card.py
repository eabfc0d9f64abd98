"""A card says what its files say, and nothing else."""

import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import HUB, SCRIPT, TINY_FLAGS, tiny_unet
from hostile_names import HOSTILE
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_hub import run

from hfdiff.core.errors import ESCAPES
from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.report import first_screen, number
from hfdiff.models.loading import export_pipeline, load_pipeline
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import write_model_folder
from hfdiff.publish.records import ModelRecords
from hfdiff.publish.redaction import public_command
from hfdiff.publish.sections import (
    code,
    findings,
    first_screen_table,
    hub_id,
    leak,
    metrics_table,
    plain,
    protocol_sentence,
    selection_line,
    selection_table,
    style_table,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(pets, clip, tmp_path_factory) -> Path:
    """A run on images of the Hub, measured and chosen from, as a user leaves it."""
    HUB.add_folder("datasets", "ann/pets", Path(pets["data"]))
    folder = tmp_path_factory.mktemp("runs") / "pets"
    flags = ["--dataset", "ann/pets", "--styles", "thick", "slanted", "--max_train_images", "16"]
    main = runpy.run_path(str(SCRIPT), run_name="train")["main"]
    assert main([*TINY_FLAGS, *flags, "--output_dir", str(folder)]) == 0
    pipeline = load_pipeline(str(folder))
    model, processor = load_clip(clip)
    pipeline.register_modules(clip_model=model, clip_processor=processor)
    export_pipeline(pipeline, folder / "pipeline")
    few = ("--num_inference_steps", "2", "--judge", pets["judge"])
    assert run("evaluate", str(folder), "--num_images", "260", "--num_styled", "100", *few) == 0
    chosen = ("--num_candidates", "2", "--top_k", "1", "--output_dir", str(folder / "best"))
    assert run("select", str(folder), *chosen, *few) == 0
    assert run("card", str(folder)) == 0
    return folder


@pytest.fixture
def clothes(measured, tmp_path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "clothes"))


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_head_says_what_the_hub_sorts_by(measured):
    data = card_of(measured).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "diffusers",
        "unconditional-image-generation",
        "apache-2.0",
    )
    assert data.datasets == ["ann/pets"]
    assert {"class-conditional", "style", "hfdiff"} <= set(data.tags)


def test_every_metric_of_the_head_equals_the_report(measured):
    report = json.loads((measured / "metrics.json").read_text())
    results = {result.metric_type: result for result in card_of(measured).data.eval_results}
    assert results.keys() == report["metrics"].keys()
    for name, metric in report["metrics"].items():
        result = results[name]
        assert result.metric_value == metric["value"]
        assert result.dataset_split == report["protocol"]["split"]
        for key in ("n", "extractor", "real", "ci95"):
            assert result.metric_args[key] == metric[key]
        assert result.metric_args["seed"] == 0


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table whose head begins so."""
    lines = text[text.index(f"| {heading} |") :].splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:count]]


def test_every_number_of_the_tables_equals_the_files(measured):
    text = card_of(measured).text
    report = json.loads((measured / "metrics.json").read_text())
    rows = {row[0].strip("`"): row[3:] for row in rows_of(text, "metric")}
    for headline, row in zip(first_screen(report), rows_of(text, ""), strict=True):
        assert row[0] == f"**{headline.name}**: {headline.about}"
        assert row[-1] == plain(headline.advice)
        assert headline.metric not in rows
        value, interval, real, n = row[1:5]
        rows[headline.metric] = [value, interval, n, f"{real} (n {report['metrics'][headline.metric]['real_n']:,})"]
    assert text.index("| **right class**") < text.index("## How to use") < text.index("| metric |")
    assert rows.keys() == report["metrics"].keys()
    for name, metric in report["metrics"].items():
        value, interval, n, real = rows[name]
        real, _, real_n = real.partition(" ")
        assert real_n == f"(n {metric['real_n']:,})"
        assert float(value) == pytest.approx(metric["value"], rel=1e-3)
        assert float(real) == pytest.approx(metric["real"], rel=1e-3)
        assert list(map(float, interval.split(" to ") if interval else [])) == pytest.approx(
            metric["ci95"] or [], rel=1e-3
        )
        assert n == f"{metric['n']:,}"
    for style, *cells, n in rows_of(text, "style"):
        row = report["metrics"]["style_fidelity"]["per_style"][style]
        keys = ("slope", "real_slope", "spearman", "real_spearman", "class_accuracy", "real_class_accuracy")
        assert list(map(float, cells[:-1])) == pytest.approx([row[key] for key in keys], rel=1e-3)
        assert cells[-1] == leak(row)
        assert n == f"{row['n']:,}"
    training = json.loads((measured / "training.json").read_text())
    assert f"| training images seen | {training['images']:,} in {training['steps']:,} steps |" in text
    assert f"{sum(training['data']['classes'].values()):,} images of [ann/pets]" in text


def numbers_in(value) -> set[float]:
    """Without their signs."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return set().union(*map(numbers_in, value))
    if isinstance(value, str):
        return {float(found.replace(",", "")) for found in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)", value)}
    return {abs(float(value))} if isinstance(value, int | float) else set()


def test_every_number_of_the_selections_table_equals_its_file(measured):
    text = card_of(measured).text
    selection = json.loads((measured / "best" / "selection.json").read_text())
    chosen = rows_of(text, "class")
    assert [row[0] for row in chosen] == list(selection["classes"])
    for name, style, n, share, bounds, *right in chosen:
        row = selection["classes"][name]["by_style"][style]
        assert float(share) == pytest.approx(row["high_quality_share"], rel=1e-3)
        assert list(map(float, bounds.split(" to "))) == pytest.approx(row["high_quality_ci95"], rel=1e-3)
        assert n == f"{row['n']:,}"
        told = row["right"]
        assert right == [f"{number(told['random'])} (n 2)", f"{number(told['best'])} (n 1)"]


def test_the_card_judges_the_choice_over_all_classes(measured):
    text = card_of(measured).text
    selection = json.loads((measured / "best" / "selection.json").read_text())
    right = selection["right"]
    assert f"{number(right['best'])} of the {right['n_best']} chosen into their class" in text
    low, high = map(number, right["ci95"])
    assert f"a difference of {number(right['difference'])} (95% interval {low} to {high})" in text


def test_selections_of_before_intervals_are_still_read():
    for file in sorted(Path(__file__).parents[2].glob("model_cards/*/selection.json")):
        selection = json.loads(file.read_text())
        selection.pop("right", None)
        for entry in selection["classes"].values():
            for row in entry["by_style"].values():
                row.pop("high_quality_ci95", None)
        assert "difference" not in selection_line(selection)
        assert selection_table(selection).count("\n") == 1 + len(selection["classes"])


def test_every_number_of_a_sentence_stands_in_a_file(measured):
    text = card_of(measured).text
    sentences = text[text.index("## Evaluation") :]
    files = (measured / "training.json", measured / "metrics.json", measured / "best" / "selection.json")
    known = numbers_in([json.loads(file.read_text()) for file in files])
    confusion = json.loads(files[1].read_text())["metrics"]["class_accuracy"]["confusion"]
    words = {95.0, 99.0}  # of intervals, and of what "nearer than" means
    said = numbers_in(sentences) - words - {float(sum(row)) for row in confusion}
    assert len(said) > 40
    assert not {one for one in said if all(one != pytest.approx(value, rel=6e-4) for value in known)}


def code_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_code_of_the_card_runs_as_it_is_written(measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = code_of(card_of(measured).text)
    assert len(parts) == 3
    assert "from_pretrained" in parts[0]
    assert "load_pipeline" in parts[1]
    assert "num_candidates=10" in parts[2]
    names: dict = {}
    for part in parts:
        exec(part, names)
    assert {path.name for path in tmp_path.glob("*.png")} == {"cat.png", "best-cat.png"}
    assert len(names["out"].images) == 8


def test_the_images_are_there_and_have_a_text(measured):
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", card_of(measured).text)
    assert [file for _, file in shown] == [
        "card/classes_and_styles.png",
        "card/losses.png",
        "card/style_strengths.png",
        "card/selection.png",
    ]
    assert all((measured / file).is_file() and len(text) > 20 for text, file in shown)


def test_what_was_not_measured_does_not_appear(pipeline, tmp_path):
    export_pipeline(pipeline, tmp_path / "model")
    write_card(ModelRecords.of(str(tmp_path / "model")))
    card = card_of(tmp_path / "model")
    assert card.data.eval_results is None
    assert card.data.datasets is None
    assert "Nothing was measured" in card.text
    assert "Chosen by CLIP" not in card.text
    assert not re.search(r"\d\.\d{3}", card.text)


def test_the_authors_words_stay_in_every_card(clothes, tmp_path):
    (clothes / "notes.md").write_text("The cats are **mine**; {{ 7 * 7 }}.\n")
    for _ in range(2):
        assert run("card", str(clothes)) == 0
        assert card_of(clothes).text.count("\n\nThe cats are **mine**; {{ 7 * 7 }}.\n\n## Intended use") == 1
    write_model_folder(ModelRecords.of(str(clothes)), tmp_path / "sent", "ann/clothes")
    assert (tmp_path / "sent" / "notes.md").read_text() == "The cats are **mine**; {{ 7 * 7 }}.\n"
    (clothes / "notes.md").write_bytes(b"\xff\xfe")
    assert run("card", str(clothes)) == 2


def test_numbers_of_other_weights_are_left_out(clothes, capsys):
    pipe = load_pipeline(str(clothes))
    pipe.unet.conv_out.bias.data += 1
    export_pipeline(pipe, clothes / "pipeline")
    write_card(ModelRecords.of(str(clothes)))
    said = capsys.readouterr().out
    for name in ("metrics.json", "selection.json"):
        assert re.search(f"{name} is of other weights than this model's, and left out", said)
    assert "Nothing was measured" in card_of(clothes).text


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_damaged_records_are_named(clothes, capsys, content):
    (clothes / "metrics.json").write_text(content)
    assert run("card", str(clothes)) == 2
    assert re.search("metrics.json is damaged: .*make it again, or delete it", capsys.readouterr().err)


def test_a_number_that_is_none_is_a_damage(clothes, capsys):
    report = json.loads((clothes / "metrics.json").read_text())
    report["metrics"]["class_accuracy"]["ci95"] = []
    (clothes / "metrics.json").write_text(json.dumps(report))
    assert run("card", str(clothes)) == 2
    assert "metrics.json, selection.json is damaged" in capsys.readouterr().err
    (clothes / "config.yaml").write_text("- 1\n")
    assert run("card", str(clothes)) == 2
    assert re.match("hfdiff: error: configuration .*config.yaml' holds a list", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["{}", '{"command": "a \'b"}', '{"data": 3}'])
def test_records_that_lack_what_a_card_needs(clothes, capsys, content):
    (clothes / "training.json").write_text(content)
    assert run("card", str(clothes)) == 2
    assert re.search("training.json.* is damaged", capsys.readouterr().err)


def test_a_weak_model_is_called_so():
    for value, weak in ((0.3, True), (0.5, False)):
        report = {"metrics": {"precision": {"value": value, "real": 0.8}}}
        said = "\n".join(findings(SimpleNamespace(report=report, training=None, selection=None)))
        assert ("Low quality: only 0.3 of samples lie among real images" in said) == weak


def with_levels(folder: Path, style: str | None = None) -> None:
    """A report as one is that measures each style at five strengths; `style` is what thick is called."""
    report = json.loads((folder / "metrics.json").read_text())
    fidelity = report["metrics"]["style_fidelity"]
    measured = next(iter(fidelity["per_style"].values()))
    rows = fidelity["per_style"] = {name: dict(measured) for name in ("thick", "slanted")}
    for name, row in rows.items():
        row["levels"] = [
            {"asked": asked, "measured": 0.1 + 0.8 * asked, "ci95": [0.8 * asked, 0.2 + 0.8 * asked], "real": asked}
            | {"real_ci95": [asked - 0.05, asked + 0.05], "n": 20}
            for asked in (0, 0.25, 0.5, 0.75, 1)
        ]
        row |= {"slope": 0.8 if name == "thick" else 0.9, "real_slope": 1.0}
    if style:
        rows[style] = rows.pop("thick")
    (folder / "metrics.json").write_text(json.dumps(report))


def test_the_strengths_of_styles_are_shown_where_they_were_measured(clothes, tmp_path):
    with_levels(clothes)
    assert run("card", str(clothes)) == 0
    text = card_of(clothes).text
    assert "Samples: thick 0.1 to 0.9, slanted 0.1 to 0.9.](card/style_strengths.png)" in text
    assert text.index("A sample may carry several styles") < text.index("style_strengths.png")
    assert (clothes / "card" / "style_strengths.png").is_file()
    assert "Followed least: thick (slope 0.8, real images 1)." in text
    write_model_folder(ModelRecords.of(str(clothes)), tmp_path / "sent", "ann/clothes")
    assert (tmp_path / "sent" / "card" / "style_strengths.png").is_file()


def test_the_name_of_a_style_in_the_figure_of_strengths_is_text(clothes):
    with_levels(clothes, "a](b) $x_")
    assert run("card", str(clothes)) == 0
    names = [text for text in seen_in(card_of(clothes).text) if "a](b) $x_ 0.1 to 0.9" in text]
    assert len(names) == 1


def test_a_card_does_not_grow_old_by_the_version_of_its_report(clothes):
    report = json.loads((clothes / "metrics.json").read_text())
    assert report.pop("version") == 2
    (clothes / "metrics.json").write_text(json.dumps(report))
    assert ModelRecords.of(str(clothes)).has_current_card


def test_a_report_of_images_is_none_of_a_model(clothes, capsys):
    report = json.loads((clothes / "metrics.json").read_text())
    report["protocol"] |= {"weights": None, "sampler": None, "images": "samples/"}
    (clothes / "metrics.json").write_text(json.dumps(report))
    assert run("card", str(clothes)) == 0
    assert "metrics.json is of other weights than this model's, and left out" in capsys.readouterr().out
    assert "Nothing was measured" in card_of(clothes).text


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLACES = ("# {}\n", "A {}, {}.\n", "| a | b |\n| --- | --- |\n| {} | {} |\n", "![{}](card/losses.png)\n", "**{}**\n")


def seen_in(text: str) -> list[str]:
    """What a reader sees of a Markdown text: each run of text, code and alternative text."""
    blocks = [token for token in MARKDOWN.parse(text) if token.type in ("inline", "fence", "html_block")]
    inner = [part for block in blocks for part in (block.children or [block])]
    return ["".join(c.content for c in part.children) if part.children else part.content for part in inner]


def structure_of(text: str) -> list[tuple]:
    """Everything of a rendered text but the text: kinds and addresses."""
    blocks = MARKDOWN.parse(text)
    inner = [part for block in blocks for part in (block, *(block.children or []))]
    return [(part.type, part.tag, {**part.attrs, "alt": ""}) for part in inner]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_markdown_is_text(name):
    shown = " ".join(name.split()).translate(ESCAPES)
    for place in PLACES:
        text = place.replace("{}", plain(name))
        assert structure_of(text) == structure_of(place.replace("{}", "name"))
        assert any(shown in seen for seen in seen_in(text))
    # what these parsers leave alone and others do not: formulas, and addresses that become links by themselves
    assert not re.search(r"\$|\\|://|www\.|@", plain(name))
    assert eval(code([name, {name: 0.5}])) == [name, {name: 0.5}]


def test_a_card_with_hostile_names_is_made_like_any_other(tmp_path, pipeline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cards = []
    for names in (HOSTILE, [f"name{i}" for i in range(len(HOSTILE))]):
        unet = tiny_unet(num_classes=len(names), num_styles=2)
        styles = {name: {"phrase": name, "group": None} for name in (names[0], names[-1])}
        folder = tmp_path / (HOSTILE[0] if names is HOSTILE else "model")
        export_pipeline(type(pipeline)(unet, pipeline.scheduler, dict(enumerate(names)), styles), folder)
        write_card(ModelRecords.of(str(folder)))
        cards.append(card_of(folder))
    hostile, usual = cards
    assert structure_of(hostile.text) == structure_of(usual.text)
    assert hostile.data.to_dict().keys() == usual.data.to_dict().keys()
    assert hostile.data.license == usual.data.license
    seen = "\n".join(seen_in(hostile.text))
    assert all(" ".join(name.split()).translate(ESCAPES) in seen for name in HOSTILE)
    exec(code_of(hostile.text)[0], {})
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_names_in_tables_and_findings_are_text(measured, name):
    """Of classes, styles, prompts, datasets and samplers, as the reports name them."""

    def sections(name: str) -> str:
        files = (measured / "metrics.json", measured / "best" / "selection.json")
        report, selection = (json.loads(file.read_text().replace('"cat"', json.dumps(name))) for file in files)
        fidelity = report["metrics"]["style_fidelity"]["per_style"]
        fidelity[name] = {**fidelity["thick"], "spearman": -1.0}  # the least, which is told of
        report["metrics"]["class_accuracy"]["per_class"] = {name: 0.1}
        report["metrics"][name] = report["metrics"]["precision"]
        report["protocol"] |= {"dataset": name, "split": name, "sampler": name}
        selection["prompts"]["quality"] |= {name: True}
        known = SimpleNamespace(class_names=[name, "dog"])
        told = SimpleNamespace(report=report, selection=selection, training=None, pipeline=known)
        parts = [first_screen_table(report), protocol_sentence(report), metrics_table(report), style_table(report)]
        return "\n\n".join([*parts, selection_line(selection), selection_table(selection), *findings(told)])

    assert structure_of(sections(name)) == structure_of(sections("name"))


@pytest.mark.parametrize(
    "name", ["x\n---\nlicense: mit\n", "null", "- a: b", "'; license: mit #", "!!python", "{{ 7*7 }}"]
)
def test_a_name_in_the_head_is_text(clothes, name):
    """Of the model and of the dataset."""
    folder = clothes.rename(clothes.with_name(name))
    report = json.loads((folder / "metrics.json").read_text())
    report["protocol"]["dataset"] = name
    (folder / "metrics.json").write_text(json.dumps(report))
    assert run("card", str(folder)) == 0
    data = card_of(folder).data
    assert (data.model_name, data.license) == (name, "apache-2.0")
    assert {result.dataset_name for result in data.eval_results} == {name}


def test_the_whole_goes_to_a_new_folder(clothes, tmp_path, capsys):
    assert run("card", str(clothes), "--output_dir", str(tmp_path / "published"), "--half") == 0
    assert run("select", str(tmp_path / "published"), "--num_candidates", "2", "--top_k", "1",
               "--num_inference_steps", "2", "--output_dir", str(tmp_path / "best")) == 0  # fmt: skip
    files = {str(path.relative_to(tmp_path / "published")) for path in (tmp_path / "published").rglob("*.*")}
    assert {"README.md", "config.yaml", "training.json", "metrics.json", "selection.json"} < files
    assert str(tmp_path) not in (tmp_path / "published" / "config.yaml").read_text()


def test_no_folder_that_is_there_is_written_over(clothes, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for folder in (tmp_path / "mine", tmp_path / "link"):
        before = sorted(folder.rglob("*"))
        assert run("card", str(clothes), "--output_dir", str(folder)) == 2
        assert "already exists; give a new folder" in capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before
    assert run("card", str(clothes), "--half") == 2


def test_a_new_folder_is_none_of_the_models_and_takes_no_names_beside_it(clothes, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / ".new.old").mkdir()
    (tmp_path / ".new.old" / "thesis.tex").touch()
    monkeypatch.chdir(tmp_path / "empty")
    before = (clothes / "README.md").read_bytes()
    for folder, reason in (
        (clothes, "lies in the model's own folder"),
        (clothes / "pipeline", "lies in the model's own folder"),
        (clothes / "README.md", "no folder"),
        (clothes / "card" / "new", "lies in the model's own folder"),
        (".", "has no name of its own"),
        ("new/..", "has no name of its own"),
        (tmp_path / ("x" * 256), "cannot be written: File name too long"),
    ):
        assert run("card", str(clothes), "--output_dir", str(folder)) == 2
        assert reason in capsys.readouterr().err
    assert (clothes / "README.md").read_bytes() == before
    assert run("card", str(clothes), "--output_dir", str(tmp_path / "new")) == 0
    assert (tmp_path / ".new.old" / "thesis.tex").is_file()


def test_a_broken_image_of_choice_is_named(clothes, capsys):
    image = next(clothes.rglob("best/selection.png"))
    image.write_bytes(b"x")
    assert run("card", str(clothes)) == 2
    assert "selection.png is no image" in (said := capsys.readouterr().err)
    assert "hfdiff select makes it" in said


def test_another_licence_in_the_card_is_said(clothes, capsys):
    readme = clothes / "README.md"
    readme.write_text(readme.read_text().replace("license: apache-2.0", "license: mit"))
    assert run("card", str(clothes)) == 0
    assert "the card said license mit; " in capsys.readouterr().out


def test_a_name_that_cannot_be_on_the_hub_is_in_no_card(clothes, capsys):
    assert run("card", str(clothes), "--repo_id", "a/b/c d") == 2
    assert "repo_id 'a/b/c d'" in capsys.readouterr().err


def test_names_of_datasets_on_the_hub():
    assert hub_id("fashion_mnist_12k") == "zalando-datasets/fashion_mnist"
    assert [hub_id(name) for name in ("ann/pets", "mnist", "pictures/")] == ["ann/pets", "mnist", None]


def test_a_command_keeps_what_is_relative():
    command = "accelerate launch train_scripts/train.py --config train_scripts/configs/demo.yaml --dataset /a/b"
    assert public_command(command) == command.replace("/a/b", "b")
