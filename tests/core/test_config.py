"""Configuration: YAML below the flags, and mistakes with the nearest valid name."""

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml
from conftest import ROOT

from hfdiff.core.config import from_mapping, parse, read_yaml, to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.training.config import TrainConfig

CONFIGS = sorted((ROOT / "train_scripts" / "configs").glob("*.yaml"))


@dataclass(frozen=True)
class Example:
    name: str = "a"
    rate: float = 0.1
    count: int = 1
    flip: bool = False
    kind: Literal["no", "yes"] = "no"
    names: tuple[str, ...] = ()
    limit: float | None = None
    sizes: tuple[int, int] = (1, 2)


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("rate: 1e-4\ncount: 1_000\nnames: [x, y]\nkind: no\n")
    for flags in (["--config", str(file)], [f"--config={file}"]):
        config = parse(Example, [*flags, "--count", "7", "--limit", "2.5"], "")
        assert config == Example(rate=1e-4, count=7, names=("x", "y"), limit=2.5)


def test_a_home_of_nobody_is_no_path():
    with pytest.raises(BadInput, match="'~nobody-here/c.yaml' begins with the home of nobody here"):
        parse(Example, ["--config", "~nobody-here/c.yaml"], "")


def test_many_aliases_are_read_once(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    assert len(read_yaml(tmp_path / "c.yaml")) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raet: 1", r"unknown key in .* 'raet' \(did you mean 'rate'\?\); valid: name, rate"),
        ("rate: fast", "rate in .* is 'fast'; valid: a number"),
        ("count: 1.5", "count in .* is 1.5; valid: a whole number"),
        ("flip: 1", "flip in .* is 1; valid: true or false"),
        ("kind: maybe", "kind in .* is 'maybe'; valid: no, yes"),
        ("names: x", "names in .* is 'x'; valid: a list"),
        ("names: [yes]", "names in .* is True; valid: text"),
        ("sizes: [1]", r"sizes in .* is \[1\]; valid: a list of 2"),
        ("name: [a]", r"name in .* is \['a'\]; valid: text"),
        ("- a", "holds a list; valid: keys with values"),
        ("a: [", "is not YAML"),
        ("name: 2026-13-01", "is not YAML: month must be in 1..12"),
        ("name: 2026-11-01", "is not YAML: a value is a date; valid: text, numbers"),
        ("name: !!binary MTY=", "is not YAML: a value is a bytes"),
        ("rate: !!bool x", "is not YAML"),
        ("rate: !!int ''", "is not YAML"),
        ('name: "\\e[31m"', r"is not YAML: a text holds the character '.x1b'"),
        ("{on: 1, yes: 2}", "the key 'yes' is given twice"),
        ("count: 1" + 400 * "0", "count in .* is 10+; valid: a whole number"),
        ("rate: 1\ncount: 2\nrate: 3", "the key 'rate' is given twice"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        parse(Example, ["--config", str(file)], "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--raet", "1"], "Unrecognized options: --raet, 1; Perhaps you meant: --rate"),
        (["--rate", "fast"], "--rate.*'fast'"),
        (["--kind", "maybe"], "'maybe'.*'no', 'yes'"),
        (["--count", "x"], "--count.*'x'; valid: --count INT"),
        (["--config"], "--config needs a YAML file"),
        (["--config", ""], "--config needs a YAML file"),
        (["--config="], "--config needs a YAML file"),
    ],
)
def test_mistakes_in_flags_are_one_line(flags, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse(Example, flags, "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_configurations_are_valid_and_say_how_they_are_started(file):
    config = parse(TrainConfig, ["--config", str(file)], "")
    assert f"--config train_scripts/configs/{file.name}" in file.read_text().splitlines()[0]
    assert from_mapping(TrainConfig, yaml.safe_load(yaml.safe_dump(to_mapping(config))), "copy") == config


def test_the_configurations_that_the_readme_names_are_shipped():
    assert {"cifar10", "demo", "fashion_mnist", "few_images"} <= {file.stem for file in CONFIGS}
