"""What is known of a model, as its files say it."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import logging as hub_logging
from PIL import Image

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder, is_inside, link_out
from hfdiff.data.decoding import open_image
from hfdiff.evaluation.report import first_screen, read_report
from hfdiff.models.loading import find_pipeline, load_pipeline, weights_fingerprint
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.publish.redaction import public, public_path
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import home_of, run_config

IMAGES = "card"  # the folder beside README.md
NOTES = "notes.md"  # what the author says in words
RECORDS = ("training.json", "metrics.json", "selection.json")


@dataclass(frozen=True)
class ModelRecords:
    """What is known of a model, as its files say it."""

    model: str  # as the user named it
    home: Path  # the folder of those files
    pipeline: ClassStylePipeline
    log: Callable[[str], None] = print

    @classmethod
    def of(cls, model: str, log: Callable[[str], None] = print) -> "ModelRecords":
        """BadInput for what is no folder with a pipeline that knows classes."""
        if existing_folder(model) is None:
            raise BadInput(f"{model[:100]!r} is no folder on this machine; valid: a run's folder, or a pipeline's")
        pipeline, home = load_pipeline(model), home_of(model)
        assert home is not None  # what holds no pipeline was refused
        check_links(home, Path(find_pipeline(model)))
        if not pipeline.class_names:
            raise BadInput(f"{model} knows no classes, so there is nothing to say of it; valid: a model with classes")
        return cls(model, home, pipeline, log)

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
        stated = [(result.metric_type, str(result.metric_value)) for result in data.eval_results or ()]
        with self.damage_named():
            metrics = self.report["metrics"] if self.report else {}
            measured = [(name, str(metric["value"])) for name, metric in metrics.items()]
        of_these = data.get("weights") in (None, self.fingerprint) and data.get("records") in (None, self.digest)
        return of_these and (not stated or stated == measured)

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
        found = self.measured("metrics.json", lambda found: found["protocol"]["weights"])
        return found and read_report(found)

    @property
    def first_screen(self) -> list[tuple[str, ...]]:
        """The five numbers of the report, as texts; none where it is absent."""
        with self.damage_named():
            return [headline.cells for headline in first_screen(self.report)] if self.report else []

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
        self.log(f"warning: {file} is damaged, and left out")
        return []

    @property
    def by_name(self) -> dict[str, dict[str, Any] | None]:
        return dict(zip(RECORDS, (self.training, self.report, self.selection)))

    @property
    def digest(self) -> str:
        """Of what the records and the configuration say: 16 hexadecimal digits. Keys as by default say nothing,
        so that a card outlives those that later versions add."""
        usual = to_mapping(TrainConfig())
        own = (
            {key: value for key, value in to_mapping(self.config).items() if value != usual[key]}
            if self.config
            else None
        )
        said = {**self.by_name, "config": own}
        if self.report:  # its version says nothing of the model
            said["metrics.json"] = {key: value for key, value in self.report.items() if key != "version"}
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
    def selection_image(self) -> Path | None:
        """The figure that was written with selection.json."""
        record = self.find("selection.json")
        folders = (record.parent, record.parent / IMAGES) if record else ()
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
        places = (self.home / name, self.home / "best" / name, self.home / IMAGES / name)
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
        self.log(f"warning: {self.find(name)} is of other weights than this model's, and left out; measure again")
        return None


def check_links(home: Path, pipeline: Path) -> None:
    """BadInput where a link in an untrusted folder leads to what is not part of it, and would be published."""
    own = (home / name for name in ("README.md", "config.yaml", "metrics.jsonl", NOTES, *RECORDS))
    folders = (pipeline, home / IMAGES, home / "best")
    out = [link for folder in folders if (link := link_out(folder))]
    if out := [*out, *(path for path in (*folders, *own) if not is_inside(path, (home,)))]:
        raise BadInput(f"{out[0]} is a link that leads out of the folder {home}; copy what it stands for")


def read_card(readme: Path) -> ModelCard:
    hub_logging.set_verbosity_error()  # one line of ours says it
    try:
        return ModelCard.load(readme)
    except (OSError, AttributeError, LookupError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{readme} is no model card: {first_line(error)[:200]}; hfdiff card writes one") from error


def check_image(file: Path, mend: str) -> None:
    """BadInput for what is no image, whatever it is called."""
    try:
        with open_image(file) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{file} is no image: {first_line(error)}; {mend}") from error
