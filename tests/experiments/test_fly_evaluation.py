"""The evaluation of made-up responses: the report, and that its numbers are the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser
from evaluations import FOLDER, Report, at, imported
from fly_responses import made_responses, write_responses

FIGURES = {"confusion", "similarity", "sparseness", "tuning", "raster", "kc_types"}


@pytest.fixture(scope="module")
def evaluate():
    with imported() as module:
        yield module


@pytest.fixture
def load_responses(evaluate):
    return evaluate.load_responses


@pytest.fixture(autouse=True)
def no_seed_from_outside(monkeypatch):
    monkeypatch.delenv("ENGRAM_SEED", raising=False)


def small_parameters(path: Path) -> Path:
    text = (FOLDER / "parameters_evaluate.toml").read_text()
    for key, value in {
        "convergence_shuffles": 3,
        "trials_per_odor": 0,
        "permutations": 19,
        "folds": 4,
    }.items():
        text, changed = re.subn(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, key
    path.write_text(text)
    return path


def make_inputs(folder: Path, shared_data: Path) -> Path:
    """An inputs folder as the runner makes it, with both optional inputs."""
    (folder / "trained").mkdir(parents=True)
    names = ["benzaldehyde", "linalool", "acetophenone", "1-octanol", "geosmin", "methanol"]
    names += ["1-hexanol", "ethyl acetate", "hexanal", "butanal", "furfural", "eugenol"]
    odor = np.array(names + [f"unknown {i}" for i in range(12)])
    write_responses(folder / "trained" / "responses.npz", odor=odor)
    (folder / "tables").symlink_to(shared_data / "fly")
    rows = [f"{name},{0.1 * i - 0.5:.1f}," for i, name in enumerate(names)]
    (folder / "valence").write_text("\n".join(["Odorant,Attraction index,CAS", *rows]) + "\n")
    head = "index,name,state,seed,param.pn_to_kc,summary.validation_accuracy"
    points = [f"{i},p{i},completed,{i % 2},{'ab'[i // 2]},{0.9 - 0.01 * i}" for i in range(4)]
    (folder / "controls").write_text("\n".join([head, *points]) + "\n")
    return folder


@pytest.fixture(scope="module")
def evaluated(evaluate, shared_data, tmp_path_factory):
    """The outputs of one evaluation, and its summary."""
    folder = tmp_path_factory.mktemp("evaluation")
    inputs = make_inputs(folder / "inputs", shared_data)
    (folder / "out").mkdir()
    summary = evaluate.main(inputs, folder / "out", small_parameters(folder / "p.toml"))
    return folder / "out", summary


def test_it_leaves_everything_it_promises(evaluated):
    out, summary = evaluated
    written = {path.name for path in out.iterdir()}
    figures = {f"{name}.png" for name in FIGURES | {"valence"}}
    assert {"report.html", "results.json", "cell_types.csv"} | figures <= written
    made = made_responses()
    assert summary["validation_accuracy"] == np.mean(made["decided"] == made["label"])
    kenyon = made["count"][:, made["cell_class"] == "KC"]
    assert summary["kc_active_fraction"] == pytest.approx((kenyon > 0).mean())


def test_every_number_of_the_report_is_that_of_the_results(evaluated):
    out, _ = evaluated
    report = Report(out / "report.html")
    results = json.loads((out / "results.json").read_text())
    assert len(report.numbers) > 300
    assert report.open == []
    for path, value, shown in report.numbers:
        number = at(results, path)
        assert float(value) == number, path
        decimals = len(shown.partition(".")[2])
        nearest = [f"{number * scale:,.{decimals}f}" for scale in (1, 100)]
        assert shown in nearest, path


def test_numbers_outside_of_the_results_are_no_measurements(evaluated):
    """Decimal fractions in running text would be numbers that nobody can check."""
    text = " ".join(Report(evaluated[0] / "report.html").text)
    found = set(re.findall(r"(?<![\w./])\d+\.\d+(?![\w/.])", text))
    quoted = (FOLDER / "evaluation" / "claims.toml").read_text()
    assert {number for number in found if number not in quoted} == set()


def test_every_estimate_has_an_error_and_its_n(evaluated):
    out, _ = evaluated
    paths = {path for path, _, _ in Report(out / "report.html").numbers}
    values = {path.removesuffix("/value") for path in paths if path.endswith("/value")}
    results = json.loads((out / "results.json").read_text())
    assert values
    for path in values:
        if at(results, f"{path}/error") is not None:
            assert f"{path}/error" in paths
        if "types/" not in path:
            assert f"{path}/n" in paths, path


def test_the_page_needs_nothing_from_outside(evaluated):
    report = Report(evaluated[0] / "report.html")
    assert {tag for tag, _ in report.elements} & {"script", "link", "iframe", "object"} == set()
    assert all(value.startswith("data:image/png;base64,") for value in report.attributes("src"))
    assert all(value.startswith("#") for value in report.attributes("href"))
    style = report.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_contents_lead_to_every_section(evaluated):
    report = Report(evaluated[0] / "report.html")
    sections = [str(found["id"]) for tag, found in report.elements if tag == "section"]
    assert [value[1:] for value in report.attributes("href")] == sections
    assert {"accuracy", "published", "controls", "valence", "retrained"} <= set(sections)


def test_what_is_modelled_is_labelled_so(evaluated):
    report = Report(evaluated[0] / "report.html")
    kinds = [str(found.get("class")) for _, found in report.elements]
    assert kinds.count("label modelled") > 3
    assert kinds.count("label data") > 3
    assert any("APL" in text for text in report.text)


def test_pictures_are_described(evaluated):
    report = Report(evaluated[0] / "report.html")
    pictures = [found for tag, found in report.elements if tag == "img"]
    assert len(pictures) == len(FIGURES) + 1
    assert all(len(str(found["alt"])) > 20 for found in pictures)


def test_without_optional_inputs_the_rest_is_the_same_bytes_and_the_report_says_what_to_give(
    evaluate, evaluated, tmp_path
):
    out, _ = evaluated
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("trained", "tables"):
        (inputs / name).symlink_to(out.parent / "inputs" / name)
    again = tmp_path / "out"
    again.mkdir()
    evaluate.main(inputs, again, out.parent / "p.toml")
    for name in (*(f"{figure}.png" for figure in FIGURES), "cell_types.csv"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    first, second = (json.loads((one / "results.json").read_text()) for one in (out, again))
    optional = dict.fromkeys(("valence", "retrained"))
    assert second == first | optional
    text = " ".join(Report(again / "report.html").text)
    assert "No table of measured valence was given" in text
    assert "No grid of training runs was given" in text


@needs_browser
def test_it_fits_a_phone_and_a_wide_screen_and_asks_for_nothing(evaluated, tmp_path):
    page = (evaluated[0] / "report.html").resolve()
    with Browser(tmp_path) as browser:
        for width in (390, 1280):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.tell("Emulation.setDeviceMetricsOverride", size)
            browser.open(page.as_uri())
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run("return [...document.images].every((one) => one.naturalWidth > 0)")
        asked = {address.partition(":")[0] for address in browser.requested()}
        assert asked <= {"file", "data"}
        assert [entry["message"] for entry in browser.log("browser")] == []


def test_types_are_written_with_errors_and_numbers(evaluated):
    lines = (evaluated[0] / "cell_types.csv").read_text().splitlines()
    assert lines[0].startswith("cell_class,cell_type,n_units,n_trials,active_fraction_value")
    made = made_responses()
    pairs = set(zip(made["cell_class"], made["cell_type"], strict=True))
    assert len(lines) == 1 + len(pairs) + len(set(made["orn_glomerulus"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"orn_count": None}, "lacks orn_count: train the network again"),
        ({"label": np.zeros(3, int)}, r"decided has shape \(96,\), not \(3,\)"),
        ({"cell_class": np.repeat("KC", 84)}, "holds no ALPN"),
    ],
)
def test_responses_that_do_not_fit_are_refused(load_responses, tmp_path, changed, message):
    path = write_responses(tmp_path / "responses.npz", **changed)
    with pytest.raises(ValueError, match=message):
        load_responses(path)


def test_missing_responses_name_the_command_that_makes_them(load_responses, tmp_path):
    with pytest.raises(FileNotFoundError, match="run experiments/fly_olfaction"):
        load_responses(tmp_path / "responses.npz")


@pytest.mark.parametrize(
    ("given", "message"), [(["tables"], "trained run"), (["trained"], "run fetch fly_olfaction")]
)
def test_missing_inputs_say_what_to_do(evaluate, tmp_path, given, message):
    for name in given:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        evaluate.find_inputs(tmp_path)


def test_every_parameter_has_a_comment_that_explains_it():
    for line in (FOLDER / "parameters_evaluate.toml").read_text().splitlines():
        assert not line or line.startswith("[") or line.partition("#")[2].strip(), line
