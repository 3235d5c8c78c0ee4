"""The typed configuration: what is generated from it, what it takes, and where it says that a value stands."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.common.config.schema import FOLDER, guide_text, json_schema, keys, stale, takes_text
from aifs_ensemble.common.config.sections import Values
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.yaml_tables import read_table
from pydantic import ValidationError

GOOD: dict[str, Any] = {
    "model": "demo", "cycle": "20250819_0000", "members": "1-4", "lead_hours": 72, "scratch": "scratch",
    "initial_conditions": {"source": "idealised"},
}  # fmt: skip
# none of these is a text that stands for a number, a truth or null, which Config takes for it and an editor does not
VALUES = [
    None, True, 0, 1, -1, 6, 7, 65, 192, 198, 960, 966, 0.5, -0.5, "", "x", "auto", "bf16", "leads", "2t", [], ["a"],
    ["sp", "sp"], [1], [2], {}, {"a": 1}, {"t": 12}, {"t": 4}, {"a": "b"}, {"source": "file"},
    {"source": "idealised", "x": 1},
]  # fmt: skip


def config_of(key: str, value: Any) -> dict[str, Any]:
    """Return a good configuration with one key set."""
    raw = json.loads(json.dumps(GOOD))
    over = value
    for part in reversed(key.split(".")):
        over = {part: over}
    merge(raw, over)
    return raw


def test_schema_and_tables_are_current() -> None:
    assert stale() == [], "make config-docs writes them"


def test_a_table_that_is_not_current_is_found() -> None:
    text = (FOLDER / "README.md").read_text()
    assert guide_text(text.replace("| `forecast.chunks` | `1` |", "| `forecast.chunks` | `2` |")) == text


def cases() -> Iterator[tuple[str, Any]]:
    for key, node in keys():
        if "properties" not in node:
            yield from ((key, value) for value in VALUES)


def test_editors_accept_and_refuse_what_commands_do() -> None:
    """Every key with every value: the schema against the classes, the classes' own checks of places left out."""
    judge = jsonschema.Draft202012Validator(json.loads((FOLDER / "config.schema.json").read_text()))
    different = []
    for key, value in cases():
        raw = config_of(key, value)
        try:
            Values.model_validate_json(json.dumps(raw))
            taken = True
        except ValidationError:
            taken = False
        except ConfigError:  # a folder without a name
            continue
        if taken != judge.is_valid(raw):
            different.append((key, value))
    assert different == []


@pytest.mark.parametrize("key", ["memebrs", "forecast.chunk", "initial_conditions.idealised.sed"])
def test_editors_refuse_unknown_keys(key: str) -> None:
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(config_of(key, 1))


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("lead_hours", "48", 48),
        ("lead_hours", 48.0, 48),
        ("min_members", "null", None),
        ("min_members", "2", 2),
        ("forecast.precision", 16, "16"),
        ("forecast.compile", "true", True),
        ("forecast.packing", {"t": "12"}, {"t": 12}),
        ("delivery.deadline_seconds", "900", 900),
        ("delivery.deadline_seconds", "0.5", 0.5),
        ("delivery.scratch_budget_mb", "null", None),
        ("cloud.project", "null", None),
        ("cloud.labels", {"a": "12"}, {"a": "12"}),
        ("cycle", 202508190600, "20250819_0600"),
    ],
)
def test_what_yaml_and_command_lines_do_to_values_is_undone(key: str, given: Any, taken: Any) -> None:
    found: Any = Config(config_of(key, given)).to_dict()
    for part in key.split("."):
        found = found[part]
    assert (found, type(found)) == (taken, type(taken))


def test_keys_are_attributes_and_what_they_stand_for() -> None:
    config = Config(GOOD | {"destination": "gs://bucket/x", "forecast": {"chunks": 3}})
    assert (config.forecast.chunks, config.delivery.threads, config.lead_hours) == (3, 8, 72)
    assert (config.model.name, config.members, config.min_members) == ("demo", (1, 2, 3, 4), 4)
    assert config.scratch.root == Path("scratch") and config.cache == Path("scratch/cache")
    assert config.objects.success == "20250819_0000/_SUCCESS" and config.cloud_destination
    with pytest.raises(ValidationError):
        config.forecast.chunks = 4


@pytest.mark.parametrize("files", [("config.yaml",), ("config.yaml", "operational.yaml")])
def test_a_configuration_is_the_same_after_a_journey_as_json(files: tuple[str, ...]) -> None:
    config = Config(read_files(*(FOLDER / name for name in files)))
    content = json.loads(json.dumps(config.to_dict()))
    assert Config(content).to_dict() == config.to_dict()
    assert set(content) == set(json_schema()["properties"])
    assert yaml.safe_load(yaml.safe_dump(config.to_dict())) == content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("forecast.output.area", [19, 21, -12, 53]),
        ("forecast.output.area", [19, 21.5, -12, 53]),
        ("forecast.output.area", "europe"),
        ("delivery.scratch_budget_mb", 900),
        ("delivery.deadline_seconds", 900),
        ("products.evaluation.areas", {"a": [19, 21, -12, 53]}),
        ("products.statistics.at_least", {"tp": [1, 2.5]}),
        ("products.statistics.quantiles", [0, 1]),
        ("products.pictures.places", {"Nairobi": [-1, 37]}),
    ],
)
def test_whole_numbers_stay_what_they_are_without_a_warning(key: str, value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Any = Config(config_of(key, value)).to_dict()
        for part in key.split("."):
            found = found[part]
        # 900 is not 900.0, which a comparison of values would not tell
        assert json.dumps(value).strip("{}") in json.dumps(found)


def test_texts_on_the_command_line_stay_texts_where_nothing_else_goes() -> None:
    assert takes_text("cloud.project") and takes_text("destination")
    assert not any(map(takes_text, ("members", "lead_hours", "forecast.packing", "forecast.precision", "none.such")))


BASE = """\
model: demo
cycle: "20250819_0000"
members: 1-4
lead_hours: 72
scratch: scratch
initial_conditions:
  source: idealised
"""


@pytest.mark.parametrize(
    ("over", "line", "says"),
    [
        ("# mine\nlead_hours: 7\n", 2, "lead_hours: 7, expected integer, at least 6"),
        ("forecast:\n  device: cpu\n  precision: 64\n", 3, "forecast.precision: '64', expected one of"),
        ("forecast: {chunks: 0}\n", 1, "forecast.chunks: 0, expected integer, at least 1"),
        (
            "forecast: {precision: fp8}\n",
            1,
            "forecast.precision: fp8 with compile: false, expected 16, bf16 or 32: only",
        ),
        (
            "forecast:\n  compile: true\n  precision: fp8\n  device: cpu\n",
            3,
            "forecast.precision: fp8 with device: cpu, expected",
        ),
        (
            "forecast: {compile: true, accelerate: false, precision: fp8}\n",
            1,
            "forecast.precision: fp8 with accelerate: false,",
        ),
        ("forecast:\n  encoder: 2\n", 2, "unknown key 'forecast.encoder', did you mean 'forecast.encoders'?"),
        ("memebrs: 1-3\n", 1, "unknown key 'memebrs', did you mean 'members'?"),
        ("delivery:\n\n  layout: block\n", 3, "delivery.layout: 'block', expected one of leads, blocks, both"),
        ("forecast:\n  packing:\n    t: 4\n", 3, "forecast.packing.t: 4, expected integer, at least 8"),
        ("forecast:\n  packing:\n    tt: 12\n", 3, "forecast.packing.tt: not written by this model"),
        ("cloud:\n  regions:\n    - 5\n", 2, "cloud.regions: [5], expected array, of string"),
        ("cycle: 2025-08-19\n", 1, "cycle: '2025-08-19' is not a cycle"),
        ("\nmembers: 3-1\n", 2, "members: '3-1' is outside"),
        ("model: dem\n", 1, "model: 'dem' is not in models.yaml"),
        ("destination: gs:/bucket/x\n", 1, "destination: 'gs:/bucket/x', expected"),
        ("report: {field: t_501}\n", 1, "report.field: 't_501', expected a variable"),
    ],
)
def test_a_wrong_file_names_its_line(
    over: str, line: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, mine = tmp_path / "config.yaml", tmp_path / "mine.yaml"
    base.write_text(BASE)
    mine.write_text(over)
    assert main(["plan", "--configfile", str(base), str(mine)]) == ConfigError.exit_code
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {mine}:{line}: {says}")


def test_the_file_that_has_the_value_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one whose value another file or the command line has replaced, nor any for a key that is missing."""
    base, mine = tmp_path / "config.yaml", tmp_path / "mine.yaml"
    base.write_text(BASE.replace("lead_hours: 72", "lead_hours: 7"))
    mine.write_text("keep_scratch: false\n")
    command = ["plan", "--configfile", str(base), str(mine)]
    assert main(command) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(f"error: {base}:4: lead_hours: 7, ")
    assert main([*command, "--config", "lead_hours=9"]) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith("error: config: lead_hours: 9, ")
    base.write_text(BASE.replace("lead_hours: 72\n", ""))
    assert main(command) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith("error: config: lead_hours is missing: Last lead time")


@pytest.mark.parametrize(
    "name", ["$(id)", "it's", 'a"b', "`id`", "a b", "a;b", "a\nb", "a\\b", "{cycle}", "a*", "a&b", "a|b", "<a"]
)
@pytest.mark.parametrize("key", ["destination", "checkpoint"])
def test_names_in_a_bucket_that_mean_something_to_a_shell(key: str, name: str) -> None:
    """Snakemake quotes them with repr, so that `it's$(id)` would run; Google Batch's plugin expands every dollar."""
    with pytest.raises(ConfigError, match=rf"config: {key}: .*becomes part of commands on rented machines"):
        Config(GOOD | {key: f"gs://bucket/{name}/x"})
    assert Config(GOOD | {key: "gs://bucket/aifs-ens_1.0/~a@b=c,d:e/x"})


def wrong(tmp_path: Path, text: str) -> list[str]:
    """Return the lines that a configuration in config.yaml is refused with, its folder left out."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        Config(read_files(path), [path])
    return str(refused.value).replace(f"{tmp_path}/", "").split("\n  ")


RIGHT = (
    "model: demo\ncycle: '20250819_0000'\nlead_hours: 72\nscratch: scratch\ninitial_conditions: {source: idealised}\n"
)


def test_all_keys_that_are_wrong_are_told_at_once(tmp_path: Path) -> None:
    """Unknown keys, values of other types, and what one key says of another, each with file and line."""
    text = f"members: 1-99\nforecast:\n  precison: 16\n  chunks: 0\nmin_members: 77\nreport: {{field: tt}}\n{RIGHT}"
    assert wrong(tmp_path, text) == [
        "3 keys are wrong:",
        "config.yaml:3: unknown key 'forecast.precison', did you mean 'forecast.precision'?",
        "config.yaml:4: forecast.chunks: 0, expected integer, at least 1",
        "config.yaml:1: members: 99 is above ensemble_size 50",
    ]


def test_what_may_be_wrong_only_because_of_another_key_is_not_told(tmp_path: Path) -> None:
    """Without a model nobody knows its variables, and a number of members above a wrong list means nothing."""
    text = RIGHT.replace("demo", "dmeo").replace("_0000", "_0100")
    text += "members: 1-3\nmin_members: 4\nreport: {field: tt}\n"
    said = wrong(tmp_path, text)
    assert said[0] == "2 keys are wrong:" and len(said) == 3
    assert said[1].startswith("config.yaml:1: model: 'dmeo'") and said[2].startswith("config.yaml:2: cycle:")
    assert len(wrong(tmp_path, RIGHT + "members: 1-3\nmin_members: 4\nreport: {field: tt}\n")) == 3


def test_missing_keys_are_told_with_wrong_ones(tmp_path: Path) -> None:
    said = wrong(tmp_path, "model: demo\nlead_hours: 7\n")
    missing = {line.partition(" ")[2].partition(" ")[0] for line in said[1:] if "is missing" in line}
    assert any("lead_hours: 7" in line for line in said)
    assert {"cycle", "members", "scratch", "initial_conditions"} <= missing
    assert said[0] == f"{len(missing) + 1} keys are wrong:"


def test_one_wrong_key_is_one_line(tmp_path: Path) -> None:
    (line,) = wrong(tmp_path, RIGHT + "members: 1-3\nforecast: {chunks: 0}\n")
    assert line == "config.yaml:7: forecast.chunks: 0, expected integer, at least 1"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        # lists of a wrong length, and what they name twice
        ("products.pictures.areas", [], ": [], expected array, of string, at least one, each once"),
        ("products.pictures.areas", ["a", "a"], ": ['a', 'a'], expected array, of string, at least one, each once"),
        ("products.compare.variables", ["2t", "2t"], ": ['2t', '2t'], expected array, of string, each once"),
        ("products.statistics.at_least", {"tp": [1, 1]}, ".tp: [1, 1], expected array, of number, each once"),
        ("products.pictures.own_areas", {"a": [1, 2, 3]}, ".a: [1, 2, 3], expected array, of number, 4 of them"),
        ("products.evaluation.areas", {}, ": {}, expected object, at least one"),
        ("model", ["demo", "demo"], ": ['demo', 'demo'], expected string or array, of string, each once"),
        ("products.statistics.quantiles", [50], ": [50], expected array, of number, at least 0, at most 1, each once"),
        # names and texts of another form
        ("products.evaluation.areas", {"A b": [1, 0, 0, 1]}, ": 'A b', expected names of the form ^[a-z0-9-]+$"),
        ("keep", {"A": {"what": ["leads"], "days": 1}}, ": 'A', expected names of the form ^[a-z0-9-]+$"),
        ("products.grid", "1.5", r": '1.5', expected string, of the form ^\d+(\.\d+)?x\d+(\.\d+)?$"),
        ("cloud.secrets", ["a b"], ": ['a b'], expected array, of string, of the form ^[A-Za-z_][A-Za-z0-9_]*$"),
        # grids and areas that there are none of
        ("products.grid", "7x1", ": 7x1, expected 0.01 degrees or more that divide 180"),
        ("products.grid", "0x0", ": 0x0, expected 0.01 degrees or more that divide 180"),
        ("products.grid", "1x0.001", ": 1x0.001, expected 0.01 degrees or more that divide 180"),
        ("forecast.output.area", [19, 170, -12, -170], ": [19, 170, -12, -170], expected [north, west, south, east] in "
         "degrees, west below east and south below north; across the date line east is 190"),
        ("forecast.output.area", [-12, 21, 19, 53], ": [-12, 21, 19, 53], expected [north, west, south, east] in "
         "degrees, west below east and south below north"),
        ("products.evaluation", {"areas": {"a": [-12, 21, 19, 53]}}, ".areas.a: [-12, 21, 19, 53], expected north, "
         "west, south and east in degrees, south below north"),
        ("products.evaluation", {"areas": {"a": [1.4, 1, 0.1, 2]}, "enabled": True}, ".areas.a: [1.4, 1, 0.1, 2], "
         "expected an area with a point of products.grid, 1.5x1.5"),
        ("products.evaluation", {"areas": {"a": [2, 0.1, 0, 1.4]}, "enabled": True}, ".areas.a: [2, 0.1, 0, 1.4], "
         "expected an area with a point of products.grid, 1.5x1.5"),
        # what is of one model
        ("by_model", {"dem": {}}, ": 'dem' is not in models.yaml, did you mean 'demo'?"),
        ("by_model", {"demo": {"gpu_mem_mb": -1}}, ".demo.gpu_mem_mb: -1, expected integer or null, at least 0"),
        ("by_model", {"demo": {"path": []}}, ".demo.path: [], expected a GRIB file or several, or null"),
        ("by_model", {"demo": {"path": ["a", ""]}}, ".demo.path: ['a', ''], expected the name of a file in each item"),
        ("by_model", {"demo-v2": {"path": "$NONE_SUCH/a"}}, ".demo-v2.path: '$NONE_SUCH/a', expected the environment "
         "variable NONE_SUCH to be set"),
        ("by_model", {"demo": {"checkpoint": "s3://a"}}, ".demo.checkpoint: 's3://a', expected a file or gs://bucket/"
         "object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(key: str, value: Any, said: str) -> None:
    raw = config_of(key, value)
    if isinstance(value, dict) and key == "products.evaluation.areas":
        raw["products"]["evaluation"]["areas"] = value
    with pytest.raises(ConfigError) as refused:
        Config(raw)
    assert str(refused.value) == f"config: {key}{said}"


def test_areas_that_have_a_point() -> None:
    areas = {
        "a": [1.5, 1.5, 1.4, 1.5], "across": [10, 359, -10, 1], "date-line": [9, 170, 0, -170],
        "pole": [90, 3, 89.9, 3],
    }  # fmt: skip
    assert Config(config_of("products.evaluation", {"enabled": True, "areas": areas})).products.evaluation.enabled
    # nothing reads them
    assert Config(config_of("products.evaluation", {"areas": {"a": [1.4, 1, 0.1, 2]}}))


def test_a_model_with_dots_in_its_name_has_a_line_too(tmp_path: Path) -> None:
    own = "members: 1\nby_model:\n  aifs-ens-1.0:\n    gpu_mem_mb: -1\nlead_hour: 6\n"
    assert wrong(tmp_path, f"{own}{RIGHT}".replace("demo", "aifs-ens-1.0")) == [
        "2 keys are wrong:",
        "config.yaml:5: unknown key 'lead_hour', did you mean 'lead_hours'?",
        "config.yaml:4: by_model.aifs-ens-1.0.gpu_mem_mb: -1, expected integer or null, at least 0",
    ]


def test_yaml_that_is_broken_names_file_and_line(tmp_path: Path) -> None:
    (line,) = wrong(tmp_path, "members: [1\nx: ]\n")
    assert line == "config.yaml:2: not valid YAML (expected ',' or ']', but got ':', while parsing a flow sequence)"


def test_a_key_given_twice_names_both_lines(tmp_path: Path) -> None:
    (line,) = wrong(tmp_path, f"members: 1\n{RIGHT}members: 2\n")
    last = RIGHT.count("\n") + 2
    assert line == f"config.yaml:{last}: members is given twice in lines 1 and {last}, expected each key once"
    prices = tmp_path / "prices.yaml"
    prices.write_text("a:\n  - {b: 1}\n  - {b: 1, c: 2,\n     b: 3}\n")
    with pytest.raises(ConfigError, match=r"prices\.yaml:4: a\.b is given twice in lines 3 and 4"):
        read_table(prices, "a table")
    prices.write_text("a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: *a\n")
    assert read_table(prices, "a table") == {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}
    prices.write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"prices\.yaml:1: not valid YAML \("):
        read_table(prices, "a table")
