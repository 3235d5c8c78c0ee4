"""What the command line says of itself: help without the library, examples, words, JSON, Tab, where to stand."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import GROUPS, build_parser, command_names, load, main
from aifs_ensemble.common.errors import ConfigError, VerificationError

COMMANDS = command_names()
# of the library, help may import these; of other people's packages none
LIGHT = re.compile(r"aifs_ensemble(\.cli(\.\w+)?|\.common(\.(errors|names|text))?)?$")
HELPED = """
import sys
before = set(sys.modules)
from aifs_ensemble.cli import main
for arguments in {calls!r}:
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
print("\\nIMPORTED", *sorted(set(sys.modules) - before))
"""


def test_help_imports_neither_the_library_nor_other_packages() -> None:
    calls = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    said = subprocess.run(
        [sys.executable, "-c", HELPED.format(calls=calls)], capture_output=True, text=True, check=True
    ).stdout
    imported = said.rpartition("IMPORTED ")[2].split()
    foreign = [name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names]
    assert [name for name in foreign if not LIGHT.match(name)] == []
    assert len(foreign) > len(COMMANDS)


def test_the_overview_names_every_command_under_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for name in COMMANDS:
        module = load(name)
        assert module.GROUP in GROUPS
        part = said.partition(f"{GROUPS[module.GROUP]}:\n")[2].partition("\n\n")[0]
        assert re.search(rf"^  {name} ", part, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    for line in load(name).EXAMPLE.splitlines():
        assert line in said
        (example,) = re.findall(r"aifs-ensemble (.*)", line)
        arguments = shlex.split(example.partition(')"')[0].partition(">")[0], comments=True)
        assert arguments[0] == name
        assert build_parser([name]).parse_args(arguments).run


def parsers(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the parsers of a command: its own, or those of its actions."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for part, inner in action.choices.items():
            yield from parsers(inner, f"{name} {part}".strip())


EVERY = dict(parsers(build_parser(COMMANDS), ""))
# of other things, whose metavar says of which; of a checkpoint, the model that it has to fit
OTHERS = {"--output", "--deadline", "--model"}


def test_the_same_option_is_said_in_the_same_words() -> None:
    said: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for parser in EVERY.values():
        for action in parser._actions:
            for option in action.option_strings:
                said[option].add((action.help, action.metavar, action.nargs))
    different = {option: words for option, words in said.items() if len(words) > 1 and option not in OTHERS}
    assert different == {}


# completion prints code for a shell; the others answer Snakemake, or only do something
WITHOUT_JSON = {"completion", "coiled-cancel"}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_what_prints_facts_prints_json(name: str) -> None:
    options = {option for action in EVERY[name]._actions for option in action.option_strings}
    assert ("--json" in options) == (name not in WITHOUT_JSON)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, in which nothing has run."""
    (tmp_path / "config").mkdir()
    keys = {
        "model": "demo", "cycle": "20250819_0000", "members": "1-2", "lead_hours": 12, "scratch": "scratch",
        "destination": "results", "initial_conditions": {"source": "idealised"},
    }  # fmt: skip
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(keys))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "keys"),
    [
        (["plan"], 0, {"alternatives"}),
        (["status"], 0, [{"member", "state"}]),
        (["doctor"], None, [{"name", "state", "text"}]),
        (["benchmark", "--prices-only"], 0, {"model", "region", "machines", "measured"}),
        (["environments"], 0, [{"name", "packages", "machine_class"}]),
        (["verify"], VerificationError.exit_code, {"members", "ensemble", "rewritten"}),
        (["gc"], 0, {"objects", "bytes", "removed"}),
        (["initial", "--members", "1", "--prepare-only"], 0, {"cache"}),
        (["checkpoint", "build", "demo"], 0, {"path", "size", "sha256"}),
        (["inspect", "."], VerificationError.exit_code, []),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value and isinstance(value[0], str) else "",
)
def test_json_is_all_that_is_printed(
    here: Path, arguments: list[str], code: int | None, keys: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = main([*arguments, "--json"])
    said = capsys.readouterr()
    assert code in (None, found), said.err
    content = json.loads(said.out)
    if isinstance(keys, list):
        assert isinstance(content, list)
        assert all(keys[0] <= set(item) for item in content) and bool(content) == bool(keys)
    else:
        assert isinstance(keys, set) and keys <= set(content)


def test_a_command_outside_the_checkout_says_where_to_stand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    calls = {
        "config/config.yaml": ["plan"],
        "--profile: 'coiled-gpu'": ["status", "--profile", "coiled-gpu"],
        "what this workflow rented": ["coiled-cancel"],
    }
    for what, arguments in calls.items():
        assert main(arguments) == ConfigError.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: {what} is not in {tmp_path}, expected to be in the root of the checkout: cd {root}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("aifs-ensemble pl", {"plan"}, {"verify"}),
        ("aifs-ensemble verify --pla", {"--place"}, {"--profile"}),
        ("aifs-ensemble verify --place ", {"scratch", "destination"}, set()),
        ("aifs-ensemble plan --profile ", {"local", "coiled-gpu", "googlebatch"}, {"config"}),
        ("aifs-ensemble plan --config forecast.ch", {"forecast.chunks="}, {"forecast.device="}),
        ("aifs-ensemble checkpoint fetch aifs", {"aifs-ens-1.0", "aifs-ens-size"}, {"demo"}),
    ],
)
def test_tab(root: Path, tmp_path: Path, line: str, offered: set[str], not_offered: set[str]) -> None:
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run(
        [sys.executable, "-m", "aifs_ensemble"],
        env=os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer)},
        cwd=root,
        check=True,
    )
    words = {word.strip() for word in answer.read_text().split("\n")}
    assert offered <= words
    assert not not_offered & words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_code_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "aifs-ensemble" in code
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=code, text=True, check=True)


def test_a_benchmark_without_a_gpu_asks_for_the_toy(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aifs_ensemble.common.gpu.cards", list)
    assert main(["benchmark"]) == ConfigError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "this machine has none" in line
    assert line.endswith(": aifs-ensemble benchmark -- --model demo --steps 4 --reference-steps 2")
    assert sorted(path.name for path in here.iterdir()) == ["config"]


def test_what_help_repeats_of_the_library_is_the_librarys() -> None:
    from aifs_ensemble.cli import benchmark, checkpoint, doctor, verify
    from aifs_ensemble.common.http import Policy
    from aifs_ensemble.delivery.verify import PLACES
    from aifs_ensemble.planning.throughput import TABLE
    from aifs_ensemble.workflow.doctor import ROLES

    assert (doctor.ROLES, verify.PLACES, benchmark.TABLE) == (ROLES, PLACES, TABLE)
    assert Policy.deadline_seconds == checkpoint.DEADLINE_SECONDS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "verify --place foo",
            "--place: 'foo', expected one of scratch, destination; see `aifs-ensemble verify --help`",
        ),
        (
            "verify --place destnation",
            "--place: 'destnation', expected one of scratch, destination, did you mean 'destination'?; see "
            "`aifs-ensemble verify --help`",
        ),
        ("account --formats pdf", "--formats: 'pdf', expected one of svg, png; see `aifs-ensemble account --help`"),
        ("plan --budget abc", "--budget: 'abc', expected a number; see `aifs-ensemble plan --help`"),
        ("plan --rows 1.5", "--rows: '1.5', expected a whole number; see `aifs-ensemble plan --help`"),
        (
            "checkpoint chck",
            "ACTION: 'chck', expected one of build, fetch, show, check, register, did you mean 'check'?; see "
            "`aifs-ensemble checkpoint --help`",
        ),
        (
            "verfy",
            "COMMAND: 'verfy', expected a COMMAND of the list, did you mean 'verify'?; see `aifs-ensemble --help`",
        ),
        ("plan --budgt 3", "unknown option '--budgt', did you mean '--budget'?; see `aifs-ensemble plan --help`"),
        ("plan x", "unknown argument 'x'; see `aifs-ensemble plan --help`"),
        ("plan --budget", "--budget: expected one argument; see `aifs-ensemble plan --help`"),
        ("", "the following arguments are required: COMMAND; see `aifs-ensemble --help`"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert (end.value.code, capsys.readouterr()) == (2, ("", f"error: {said}\n"))
