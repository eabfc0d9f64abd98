"""The five numbers of the first screen, and the short table of the rest."""

import json

import pytest
from conftest import ROOT

from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.report import FIRST_SCREEN, describe_report, first_screen, number, read_report, rest_of

REPORTS = sorted((ROOT / "model_cards").glob("*/metrics.json"))


def metric(value: float, real: float | None = 0.5, half: float = 0.1, **more) -> dict:
    numbers = {"value": value, "ci95": [value - half, value + half], "real": real, "n": 100, "real_n": 100}
    return {**numbers, "extractor": "judge", **more}


def report_with(**metrics: dict) -> dict:
    return {"version": 2, "protocol": {"missing": []}, "metrics": metrics}


def line(report: dict, name: str):
    return next(headline for headline in first_screen(report) if headline.name == name)


@pytest.mark.parametrize("question", FIRST_SCREEN, ids=lambda question: question.name)
def test_a_number_of_the_first_screen_says_what_to_do(question):
    """Chance moves the samples and the real images by as much: 0.1 each, 0.14 together."""
    for value, said in ((0.3, question.below), (0.37, question.near), (0.63, question.near), (0.7, question.above)):
        for key in question.metrics:
            headline = line(report_with(**{key: metric(value)}), question.name)
            assert headline.advice == said
            assert (headline.metric, headline.value, headline.real, headline.n) == (key, value, 0.5, 100)
    assert line(report_with(**{key: metric(0.3, None)}), question.name).advice == ""
    assert line(report_with(**{key: metric(0.3) | {"ci95": None}}), question.name).advice == question.below


def test_classes_more_often_right_than_real_ones_are_a_warning():
    advice = line(report_with(class_accuracy=metric(0.99, 0.93, 0.01)), "right class").advice
    assert "narrower than the data" in advice
    assert "lower guidance_scale" in advice


def test_variety_is_coverage_and_in_older_reports_recall():
    both = report_with(recall=metric(0.4), coverage=metric(0.6))
    assert line(both, "variety").metric == "coverage"
    assert rest_of(both) == {"recall": metric(0.4)}
    assert rest_of(report_with(recall=metric(0.4))) == {}


def test_the_style_that_is_followed_least_is_named():
    rows = {
        "thick": {"spearman": 0.9, "real_spearman": 0.95, "slope": 0.2, "real_slope": 0.9},
        "thin": {"spearman": 0.5, "real_spearman": None, "slope": 1.0, "real_slope": None},
    }
    new = line(report_with(style_fidelity=metric(0.7, per_style=rows)), "style").advice
    assert new.endswith("Followed least: thick (slope 0.2, real images 0.9).")
    for row in rows.values():
        row["slope"] = None
    old = line(report_with(style_fidelity=metric(0.7, per_style=rows)), "style").advice
    assert old.endswith("Followed least: thin (Spearman 0.5).")


def test_copies_come_with_the_power_of_the_search():
    found = metric(0.0, searched_n=59_000)
    advice = line(report_with(memorisation=found), "copies").advice
    assert advice.endswith("The search of 59,000 training images has a power not measured yet.")
    powers = {"shifted by 1 pixel": 1.0, "mirrored": 0.97, "10% brighter": 0.99}
    advice = line(report_with(memorisation=found | {"power": powers}), "copies").advice
    assert advice.endswith(" finds 0.97 or more of planted near-duplicates (least: mirrored).")


def test_a_distance_is_that_at_infinite_n_and_its_plain_value_stands_below():
    """The plain values of 2,000 images lie above those that do not depend on n."""
    at_n = metric(1.0, 0.9, infinite=0.6, infinite_ci95=[0.5, 0.7], real_infinite=0.1)
    headline = line(report_with(frechet_judge=at_n), "distance")
    assert headline.cells[1:5] == ("0.6", "0.5 to 0.7", "0.1", "100")
    assert headline.about.endswith("extrapolated to infinite n")
    assert headline.advice.startswith("Further away than other real images")
    assert rest_of(report_with(frechet_judge=at_n)) == {"frechet_judge": at_n}


def test_the_class_that_is_covered_least_is_named():
    worst = {"name": "Shirt", "value": 0.2, "real": 0.9}
    advice = line(report_with(coverage=metric(0.4, worst_class=worst)), "variety").advice
    assert advice.endswith("Least of all of Shirt (0.2, real images 0.9).")


def test_what_is_missing_says_how_to_measure_it():
    report = report_with()
    report["protocol"]["missing"] = ["memorisation needs 200 samples; there are 50"]
    for headline in first_screen(report):
        assert headline.value is None
        assert headline.metric in METRICS
        assert headline.cells[1:5] == ("", "", "", "")
        assert f"hfdiff evaluate MODEL --metrics {headline.metric} --num_" in headline.advice
    assert line(report, "copies").advice.startswith("Not measured: memorisation needs 200 samples; there are 50. ")
    assert line(report, "style").advice.startswith("Not measured. ")
    report["protocol"] |= {"images": "samples/", "dataset": "pets", "n": 120}
    assert line(report, "variety").advice == "Not measured: coverage needs 250 images; there are 120."
    assert line(report, "style").advice == "Not measured: it needs a model."


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.parent.name)
def test_the_screen_shows_five_numbers_and_each_other_once(file):
    report = read_report(json.loads(file.read_text()))
    top, _, rest = describe_report(report).partition("metric  ")
    for headline in first_screen(report):
        assert f"{headline.name} " in top
        assert headline.advice in top
        assert number(headline.value) in top
    rows, _, styles = rest.partition("\n\n")
    assert [text.split()[0] for text in rows.splitlines()[1:]] == list(rest_of(report))
    assert [text.split()[0] for text in styles.splitlines()[1:]] == list(
        report["metrics"]["style_fidelity"]["per_style"]
    )


def test_numbers_keep_four_digits():
    assert [number(value) for value in (0.94, 3.14159e-5, -2e-6, 12345.6, None, 0.0)] == [
        "0.94", "0.00003142", "-0.000002", "12350", "", "0"
    ]  # fmt: skip
