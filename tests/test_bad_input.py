"""The table of bad input: what a user may get wrong, and the one line that says so.

Every case runs the way a user meets it: a command of the ``aifs-ensemble`` CLI in this process, or where no command
of its own leads there, the library's function. Checked of each: the exit code of its class of error, that the message
is one line, names the file or key, the value and what was expected, and that nothing half-written is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import CheckpointError, ConfigError, InputError, WorkflowError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.fields.state import State, write_state
from aifs_ensemble.model.checkpoint.build import build_checkpoint, build_demo
from aifs_ensemble.model.checkpoint.load import check_digest
from doubles.opendata_replica import MODEL, encode, member_fields
from forecast.cases import CYCLE, initial_state

SOURCE_GRID = "10x10"
NAN = float("nan")


@cache
def fields(hours: int) -> dict[str, np.ndarray]:
    """Idealised fields of member 1 on the source grid, `hours` from the cycle."""
    now = parse_cycle(CYCLE)
    return member_fields(SOURCE_GRID, now + timedelta(hours=hours), now, 1)


@cache
def message(variable: str, hours: int, day: int = 0) -> bytes:
    """Return one field as GRIB, its date `day` days from its own."""
    time = parse_cycle(CYCLE) + timedelta(hours=hours, days=day)
    return encode(variable, fields(hours)[variable], SOURCE_GRID, time, bitsPerValue=24)


def grib(hours: tuple[int, ...] = (-6, 0), *, without: tuple[str, ...] = (), day: int = 0, **instead: bytes) -> bytes:
    """Return a GRIB file with all inputs at the times given, less and changed as asked."""
    return b"".join(
        instead.get(f"{variable}@{time}", message(variable, time, day))
        for time in hours
        for variable in MODEL.inputs
        if variable not in without and (time == 0 or variable not in MODEL.constant)
    )


def with_hole(variable: str) -> bytes:
    """Return a field at T of which one value is missing, as a bitmap says."""
    values = np.array(fields(0)[variable], dtype=float)
    values[100] = 9999.0
    return encode(variable, values, SOURCE_GRID, parse_cycle(CYCLE), bitmapPresent=1, missingValue=9999.0)


def state(**changes: Any) -> State:
    """Return a good initial state of member 1 with attributes changed."""
    return replace(initial_state(MODEL), **changes)


def state_with_nan(variable: str) -> State:
    good = initial_state(MODEL)
    good.fields[1, good.variables.index(variable), 7] = np.nan
    return good


def state_without(variable: str) -> State:
    good = initial_state(MODEL)
    kept = [row for row, name in enumerate(good.variables) if name != variable]
    names = tuple(good.variables[row] for row in kept)
    return replace(good, fields=good.fields[:, kept], variables=names, units=("",) * len(names))


@dataclass
class Bench:
    """A folder of one case, and the good files that cases spoil."""

    folder: Path
    shared: Path
    demo: Path

    def config(self, **keys: Any) -> dict[str, Any]:
        raw: dict[str, Any] = {
            "model": "demo", "cycle": CYCLE, "members": "1", "lead_hours": 6,
            "scratch": str(self.folder / "scratch"), "destination": str(self.folder / "results"),
            "initial_conditions": {"source": "idealised", "cache": str(self.shared / "cache")},
            "forecast": {"device": "cpu", "encoders": 1},
        }  # fmt: skip
        merge(raw, keys)
        return raw

    def command(self, name: str, *arguments: str, text: str | None = None, **keys: Any) -> int:
        """Run a command with a configuration file of `keys`, or of `text` as it stands."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.config(**keys)) if text is None else text)
        return main([name, "--configfile", str(path), *arguments])

    def initial(self, content: bytes | None, name: str = "input.grib2", **more: Any) -> int:
        """Run the command that makes initial states from a GRIB file of this content, or of none."""
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        source = {"source": "file", "file": {"path": str(path)}, "derive": ["z"], **more}  # z from gh
        return self.command("initial", initial_conditions=source)

    def forecast(self, initial: State | bytes | None = None, checkpoint: bytes | Path | None = None) -> int:
        """Run the forecast command from a state and a checkpoint, each good unless given."""
        start, model = self.folder / "member001.safetensors", self.folder / "demo.ckpt"
        if isinstance(initial, bytes):
            start.write_bytes(initial)
        else:
            write_state(start, initial or initial_state(MODEL))
        if isinstance(checkpoint, bytes):
            model.write_bytes(checkpoint)
        else:
            model = checkpoint or self.demo
        return self.command("forecast", "--initial", str(start), "--checkpoint", str(model))

    def plan(self, **keys: Any) -> int:
        return self.command("plan", **keys)


@dataclass(frozen=True)
class Case:
    """What is wrong, how it is run, which error it is and what the line holds ({folder} is the case's own)."""

    wrong: str
    act: Callable[[Bench], Any]
    error: type[WorkflowError]
    says: tuple[str, ...]


def setting(wrong: str, says: tuple[str, ...], **keys: Any) -> Case:
    """A configuration with wrong keys, met by the first command that reads it."""
    return Case(wrong, lambda bench: bench.plan(**keys), ConfigError, says)


def latin(bench: Bench) -> int:
    path = bench.folder / "latin.yaml"
    path.write_bytes("model: d\u00e9mo\n".encode("latin-1"))
    return main(["plan", "--configfile", str(path)])


CONFIGS = [
    setting("unknown key", ("unknown key 'memebrs'", "did you mean 'members'?"), memebrs="1-3"),
    setting("unknown key that is known elsewhere", ("'precision'", "did you mean 'forecast.precision'?"), precision=16),
    setting("misspelt key of a section", ("'precison'", "did you mean 'forecast.precision'?"), precison=16),
    setting(
        "unknown key in a section", ("'forecast.encoder'", "did you mean 'forecast.encoders'?"), forecast={"encoder": 2}
    ),
    setting(
        "key known in two sections",
        ("'deadline_seconds'", "'initial_conditions.ecmwf_open_data.deadline_seconds' or 'delivery.deadline_seconds'"),
        deadline_seconds=9,
    ),
    setting("text for a number", ("lead_hours: '72 h'", "expected integer"), lead_hours="72 h"),
    setting("number for a section", ("forecast: 5", "expected object"), forecast=5),
    setting("not a whole step", ("lead_hours: 7", "a multiple of 6"), lead_hours=7),
    setting("beyond the last lead", ("lead_hours: 966", "at most 960"), lead_hours=966),
    setting(
        "none of the choices", ("forecast.precision: '64'", "one of 16, bf16, fp8, 32"), forecast={"precision": "64"}
    ),
    setting("cycle of another form", ("cycle: '2025-08-19'", "expected YYYYMMDD_HHMM"), cycle="2025-08-19"),
    setting("cycle on no such day", ("cycle: '20250230_0000'", "expected YYYYMMDD_HHMM"), cycle="20250230_0000"),
    setting(
        "cycle at an odd hour", ("cycle: '20250819_0300'", "expected hour 00, 06, 12 or 18"), cycle="20250819_0300"
    ),
    setting("member named twice", ("members: 2", "more than once", "'1-2,2'"), members="1-2,2"),
    setting("members backwards", ("members: '3-1'", "runs backwards", "1-50"), members="3-1"),
    setting("member below the control", ("members: '-1'", "not a member or a range"), members=-1),
    setting("member above the ensemble", ("members: 51", "ensemble_size 50"), members="51"),
    setting("more members asked than made", ("min_members: 4", "at most the 3"), members="1-3", min_members=4),
    setting("unknown model", ("model: 'aifs-ens-1'", "did you mean 'aifs-ens-1.0'?"), model="aifs-ens-1"),
    setting(
        "file source without a file",
        ("initial_conditions.file.path is missing", "source is file"),
        initial_conditions={"source": "file"},
    ),
    setting(
        "derivation that is none",
        ("initial_conditions.derive: ['q']", "sp, 2d, z"),
        initial_conditions={"derive": ["q"]},
    ),
    setting("bits per value below the fewest", ("forecast.packing.t: 4", "at least 8"), forecast={"packing": {"t": 4}}),
    setting(
        "packing of a parameter that there is not",
        ("forecast.packing.tt: not written by this model", "did you mean 't'?"),
        forecast={"packing": {"tt": 12}},
    ),
    setting("time that is no number", ("delivery.deadline_seconds: nan", "finite"), delivery={"deadline_seconds": NAN}),
    setting("no room at all", ("scratch_budget_mb: -5", "above 0"), delivery={"scratch_budget_mb": -5}),
    Case(
        "prices that are a folder",
        lambda bench: bench.plan(cloud={"prices": str(bench.folder)}),
        ConfigError,
        ("{folder}: Is a directory", "expected a table of machines or prices"),
    ),
    Case(
        "older than no number",
        lambda bench: bench.command("gc", "--older-hours", "nan"),
        ConfigError,
        ("--older-hours: nan", "expected hours"),
    ),
    setting("label that is a number", ("cloud.labels.a: 1", "expected string"), cloud={"labels": {"a": 1}}),
    setting(
        "blocks of more leads than go together",
        ("delivery.block_hours: 198", "at most 192"),
        delivery={"layout": "blocks", "block_hours": 198},
    ),
    setting(
        "report of a field that is none", ("report.field: 't_501'", "did you mean 't_50"), report={"field": "t_501"}
    ),
    setting("bucket without a name", ("destination: 'gs://'", "names no bucket", "gs://bucket"), destination="gs://"),
    setting("bucket named by a colon", ("destination: 'gs://:'", "names no bucket"), destination="gs://:"),
    setting(
        "bucket with one slash",
        ("destination: 'gs:/bucket/x'", "did you mean 'gs://bucket/x'?"),
        destination="gs:/bucket/x",
    ),
    setting(
        "checkpoint with one slash", ("checkpoint: 'gs:/b/x.ckpt'", "gs://bucket/object"), checkpoint="gs:/b/x.ckpt"
    ),
    setting("bucket for scratch", ("scratch: 'gs://bucket/x'", "a folder of this machine"), scratch="gs://bucket/x"),
    setting("no folder for scratch", ("scratch: ''", "a folder of this machine"), scratch=""),
    setting(
        "variable that is not set",
        ("destination: '$NO_SUCH_VARIABLE/x'", "NO_SUCH_VARIABLE to be set"),
        destination="$NO_SUCH_VARIABLE/x",
    ),
    setting(
        "no such user", ("scratch: '~no-such-user/x'", "expected a user of this machine"), scratch="~no-such-user/x"
    ),
    Case(
        "bucket without a name on the command line",
        lambda bench: bench.command("plan", "--config", "destination=gs://:"),
        ConfigError,
        ("destination: 'gs://:'", "names no bucket"),
    ),
    Case(
        "broken YAML on the command line",
        lambda bench: bench.command("plan", "--config", "forecast.packing={tt: 12"),
        ConfigError,
        ("--config: 'forecast.packing={tt: 12'", "not valid YAML"),
    ),
    Case(
        "a day that there is not, without quotes",
        lambda bench: bench.command("plan", text="cycle: 2025-02-30\n"),
        ConfigError,
        ("{folder}/config.yaml", "not valid YAML", "day is out of range"),
    ),
    Case(
        "configuration that is a folder",
        lambda bench: main(["plan", "--configfile", str(bench.folder)]),
        ConfigError,
        ("{folder}: Is a directory", "expected a configuration file"),
    ),
    Case(
        "configuration of other letters", latin, ConfigError, ("latin.yaml: byte 8 is no UTF-8", "expected a text file")
    ),
    Case(
        "no YAML",
        lambda bench: bench.command("plan", text="model: [demo\ncycle: x\n"),
        ConfigError,
        ("{folder}/config.yaml:2: not valid YAML",),
    ),
    Case(
        "YAML that is a list",
        lambda bench: bench.command("plan", text="- model\n- demo\n"),
        ConfigError,
        ("{folder}/config.yaml: list", "expected keys and values"),
    ),
    Case(
        "no configuration file",
        lambda bench: main(["plan", "--configfile", str(bench.folder / "mine.yaml")]),
        ConfigError,
        ("{folder}/mine.yaml: no such configuration file",),
    ),
    Case(
        "setting without a value",
        lambda bench: bench.command("plan", "--config", "members"),
        ConfigError,
        ("--config: 'members'", "expected KEY=VALUE"),
    ),
    Case(
        "nowhere to deliver to",
        lambda bench: open_destination(Config(bench.config(destination=None))),
        ConfigError,
        ("destination is not set", "expected a folder or gs://bucket"),
    ),
    Case(
        "a service for a destination that is none",
        lambda bench: open_destination(Config(bench.config(destination="s3://bucket"))),
        ConfigError,
        ("destination: 's3://bucket'", "expected a folder or gs://bucket"),
    ),
]

GRIBS = [
    Case("no such file", lambda b: b.initial(None), InputError, ("{folder}/input.grib2: no such GRIB file",)),
    Case("empty file", lambda b: b.initial(b""), InputError, ("{folder}/input.grib2: no GRIB message in 0 bytes",)),
    Case("not GRIB", lambda b: b.initial(b"netCDF?\n" * 9), InputError, ("input.grib2: no GRIB message in 72 bytes",)),
    Case(
        "cut short",
        lambda b: b.initial(grib()[:-50]),
        InputError,
        ("{folder}/input.grib2: no whole GRIB message after message 179",),
    ),
    Case(
        "fields missing",
        lambda b: b.initial(grib(without=("t_500", "stl2"))),
        InputError,
        (f"{CYCLE} member001 from input.grib2: 2 of 92 input fields missing at 2025-08-18 18 UTC: stl2, t_500",),
    ),
    Case(
        "another day",
        lambda b: b.initial(grib(day=1)),
        InputError,
        ("input.grib2: no fields at", "the file has 2025-08-19 18 UTC and 2025-08-20 00 UTC", "2025-08-19 00 UTC (6 h"),
    ),
    Case(
        "times a day apart",
        lambda b: b.initial(grib((-24, 0))),
        InputError,
        ("input.grib2: no fields at 2025-08-18 18 UTC", "24 h apart", "expected both", "6 h apart"),
    ),
    Case(
        "a value missing",
        lambda b: b.initial(grib(**{"2t@0": with_hole("2t")})),
        InputError,
        ("input.grib2: 2t", "1 of 684 values missing or not finite", "expected none"),
    ),
]


def cut_short(bench: Bench) -> bytes:
    write_state(bench.folder / "whole.safetensors", initial_state(MODEL))
    return (bench.folder / "whole.safetensors").read_bytes()[:-5000]


STATES = [
    Case(
        "not a state",
        lambda b: b.forecast(b"no state"),
        InputError,
        (
            "{folder}/member001.safetensors: not a readable",
            "delete it where it is kept, and the next run makes it again",
        ),
    ),
    Case("empty state", lambda b: b.forecast(b""), InputError, ("{folder}/member001.safetensors: not a readable",)),
    Case(
        "state cut short",
        lambda b: b.forecast(cut_short(b)),
        InputError,
        ("{folder}/member001.safetensors: not a readable", "delete it where it is kept"),
    ),
    Case("another grid", lambda b: b.forecast(state(grid="N48")), InputError, ("safetensors: grid N48, expected N32",)),
    Case(
        "fewer points than the grid",
        lambda b: b.forecast(state(fields=initial_state(MODEL).fields[:, :, :100])),
        InputError,
        ("member001.safetensors: 100 grid points", "expected the checkpoint's 6114"),
    ),
    Case("another member's", lambda b: b.forecast(state(member=2)), InputError, ("safetensors: member 2, expected 1",)),
    Case(
        "another cycle's",
        lambda b: b.forecast(state(cycle="20250818_1800")),
        InputError,
        (f"member001.safetensors: cycle 20250818_1800, expected {CYCLE}",),
    ),
    Case(
        "times 24 h apart",
        lambda b: b.forecast(state(times=(parse_cycle(CYCLE) - timedelta(hours=24), parse_cycle(CYCLE)))),
        InputError,
        ("member001.safetensors: times ['2025-08-18T00", "expected ['2025-08-18T18"),
    ),
    Case("NaN", lambda b: b.forecast(state_with_nan("q_850")), InputError, ("safetensors: NaN or infinity in q_850",)),
    Case("a variable less", lambda b: b.forecast(state_without("sp")), InputError, ("safetensors: missing sp",)),
]


def other_grid(bench: Bench) -> Path:
    """A checkpoint of the same variables on O16."""
    path = bench.folder / "other.ckpt"
    build_checkpoint(MODEL, path, hidden="O8", channels=8, layers=1, heads=2, window=32, data_grid="O16")
    return path


def bit_flipped(bench: Bench) -> bytes:
    """The demonstration's checkpoint with one bit of its weights changed."""
    data = bytearray(bench.demo.read_bytes())
    data[len(data) // 2] ^= 1
    return bytes(data)


def unlisted(bench: Bench) -> None:
    model = get_model("aifs-ens-1.0")
    check_digest(bench.demo, replace(model, checkpoint=dict(model.checkpoint) | {"sha256": None}))


def listed_otherwise(bench: Bench) -> None:
    model = get_model("aifs-ens-1.0")
    check_digest(bench.demo, replace(model, checkpoint=dict(model.checkpoint) | {"sha256": "0" * 64}))


CHECKPOINTS = [
    Case(
        "no such checkpoint",
        lambda b: b.forecast(checkpoint=b.folder / "mine.ckpt"),
        CheckpointError,
        ("{folder}/mine.ckpt: no such checkpoint", "demo"),
    ),
    Case(
        "not a zip archive",
        lambda b: b.forecast(checkpoint=b"version https://git-lfs.github.com/spec/v1"),
        CheckpointError,
        ("{folder}/demo.ckpt: starts with b'vers'", "expected the zip archive"),
    ),
    Case(
        "checkpoint cut short",
        lambda b: b.forecast(checkpoint=b.demo.read_bytes()[:-5000]),
        CheckpointError,
        ("{folder}/demo.ckpt: truncated or damaged",),
    ),
    Case(
        "checkpoint of another grid",
        lambda b: b.forecast(checkpoint=other_grid(b)),
        CheckpointError,
        ("{folder}/other.ckpt: 1600 grid points", "expected the 6114 of N32 (demo)"),
    ),
    Case(
        "checkpoint of another model",
        lambda b: main(["checkpoint", "show", str(b.demo), "--model", "aifs-ens-1.0"]),
        CheckpointError,
        ("demo.ckpt: 6114 grid points", "expected the 542080 of N320 (aifs-ens-1.0)"),
    ),
    Case(
        "checkpoint of another content",
        lambda b: b.forecast(checkpoint=bit_flipped(b)),
        CheckpointError,
        ("{folder}/demo.ckpt: sha256", "expected", "checkpoint.build of demo"),
    ),
    Case("digest not listed", unlisted, CheckpointError, ("demo.ckpt: models.yaml lists no sha256 for aifs-ens-1.0",)),
    Case(
        "digest another than listed",
        listed_otherwise,
        CheckpointError,
        ("demo.ckpt: sha256", f"expected {'0' * 64}", "models.yaml"),
    ),
]


def below_a_file(bench: Bench) -> Path:
    """A folder that cannot be: what it would be in is a file."""
    (bench.folder / "notes").write_text("not a folder")
    return bench.folder / "notes" / "out"


def text_as_checkpoint(bench: Bench, *arguments: str) -> int:
    """A command on a checkpoint that is a text, beside which no record of its digest may be left."""
    path = bench.folder / "results" / "README.md"
    path.parent.mkdir()
    path.write_text("# AIFS ENS ensembles")
    code = main([*arguments, str(path)])
    assert sorted(path.parent.iterdir()) in ([path], [path.with_name(".README.md.lock"), path])
    return code


def inspected(bench: Bench, *params: str) -> int:
    path = bench.folder / "input.grib2"
    path.write_bytes(message("2t", 0))
    return main(["inspect", str(path), "--param", *params])


COMMANDS = [
    Case(
        "scratch below a file",
        lambda b: b.command("initial", scratch=str(below_a_file(b))),
        ConfigError,
        ("scratch: '{folder}/notes/out'", "expected a folder that can be written", "{folder}/notes is not a folder"),
    ),
    Case(
        "scratch of a forecast below a file",
        lambda b: b.command("forecast", scratch=str(below_a_file(b))),
        ConfigError,
        ("scratch: '{folder}/notes/out'", "expected a folder that can be written"),
    ),
    Case(
        "scratch that cannot be written",
        lambda b: b.command("initial", scratch="/proc/nowhere"),
        ConfigError,
        ("scratch: '/proc/nowhere'", "expected a folder that can be written: /proc"),
    ),
    Case(
        "cache below a file",
        lambda b: b.initial(grib(), cache=str(below_a_file(b))),
        WorkflowError,
        ("{folder}/notes/out", "Not a directory"),
    ),
    Case(
        "account to a folder below a file",
        lambda b: b.command("account", "--output", str(below_a_file(b))),
        ConfigError,
        ("--output: '{folder}/notes/out'", "expected a folder to write", "{folder}/notes is not a folder"),
    ),
    Case(
        "pickles to a folder below a file",
        lambda b: b.command("convert-pickle", "state_001.pkl", "--output", str(below_a_file(b))),
        ConfigError,
        ("--output: '{folder}/notes/out'", "{folder}/notes is not a folder"),
    ),
    Case(
        "checkpoint to a folder below a file",
        lambda b: main(["checkpoint", "build", "demo", "--output", str(below_a_file(b) / "x.ckpt")]),
        ConfigError,
        ("--output: '{folder}/notes/out/x.ckpt'", "{folder}/notes is not a folder"),
    ),
    Case(
        "checkpoint to a folder",
        lambda b: main(["checkpoint", "build", "demo", "--output", str(b.folder)]),
        ConfigError,
        ("--output: '{folder}'", "expected a file to write", "is a folder"),
    ),
    Case(
        "checkpoint from a bucket alone",
        lambda b: main(["checkpoint", "fetch", "demo", "--source", "gs://", "--output", str(b.folder / "x.ckpt")]),
        CheckpointError,
        ("gs://: expected gs://bucket/object",),
    ),
    Case(
        "checkpoint from half a URL",
        lambda b: main(["checkpoint", "fetch", "demo", "--source", "https://[", "--output", str(b.folder / "x.ckpt")]),
        CheckpointError,
        ("checkpoint: https://[: Invalid IPv6 URL", "expected an https:// URL"),
    ),
    Case(
        "text fetched before",
        lambda b: text_as_checkpoint(b, "checkpoint", "fetch", "demo", "--source", "gs://b/x", "--output"),
        CheckpointError,
        ("{folder}/results/README.md: not a checkpoint", "remove to fetch anew"),
    ),
    Case(
        "text for a checkpoint",
        lambda b: text_as_checkpoint(b, "checkpoint", "register", "aifs-ens-1.0"),
        CheckpointError,
        ("{folder}/results/README.md: starts with b'# AI'",),
    ),
    Case(
        "looking again at once", lambda b: b.command("status", "--watch", "-1"), ConfigError, ("--watch: -1", "above 0")
    ),
    Case(
        "looking again never", lambda b: b.command("status", "--watch", "nan"), ConfigError, ("--watch: nan", "above 0")
    ),
    Case(
        "initial state of a member above the ensemble",
        lambda b: b.command("initial", "--members", "60"),
        ConfigError,
        ("members: '60'", "outside 0 to 50"),
    ),
    Case(
        "pickle of a member above the ensemble",
        lambda b: b.command("convert-pickle", "state_060.pkl"),
        ConfigError,
        ("members: '60'", "outside 0 to 50"),
    ),
    Case(
        "no pickle",
        lambda b: b.command("convert-pickle"),
        InputError,
        ("convert-pickle: no file named", "expected e.g. input_state_member_007.pkl"),
    ),
    Case(
        "pickle after the configuration",
        lambda b: b.command("convert-pickle", str(b.folder / "state_001.pkl")),
        InputError,
        ("{folder}/state_001.pkl: no such file",),
    ),
    Case(
        "parameter that no message has",
        lambda b: inspected(b, "2t", "tt"),
        InputError,
        ("--param: tt: no message of 1 files matches", "known are 2t"),
    ),
]

TABLE = [*CONFIGS, *GRIBS, *STATES, *CHECKPOINTS, *COMMANDS]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint, and the cache of interpolation weights."""
    folder = tmp_path_factory.mktemp("shared")
    build_demo(MODEL, folder / "good" / "demo.ckpt")
    return folder


@pytest.fixture
def bench(shared: Path, tmp_path: Path) -> Bench:
    return Bench(tmp_path, shared, shared / "good" / "demo.ckpt")


def left_over(folder: Path) -> Iterator[str]:
    """Name the files under scratch and destination that look finished, and those that look half-written."""
    for place in ("scratch", "results"):
        for path in sorted((folder / place).rglob("*")):
            finished = path.suffix in (".grib2", ".grib", ".index", ".safetensors")
            published = path.parent.name in ("manifests", "receipts", "forecasts", "initial")
            if path.is_file() and (finished or published or path.name.endswith(".part")):
                yield str(path.relative_to(folder))


@pytest.mark.parametrize("case", TABLE, ids=[case.wrong.replace(" ", "-") for case in TABLE])
def test_bad_input(case: Case, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = case.act(bench)
        said = capsys.readouterr().err.splitlines()
    except WorkflowError as error:
        code, said = error.exit_code, f"error: {error}".splitlines()
    assert code == case.error.exit_code, said
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    for fragment in case.says:
        assert fragment.replace("{folder}", str(bench.folder)) in said[0]
    assert list(left_over(bench.folder)) == []


def test_files_that_are_named_are_there_for_a_finished_member_too(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.forecast() == 0
    capsys.readouterr()
    assert bench.forecast(checkpoint=bench.folder / "mine.ckpt") == CheckpointError.exit_code
    assert "mine.ckpt: no such checkpoint, expected that of demo" in capsys.readouterr().err
    named = ("--checkpoint", str(bench.demo), "--initial", str(bench.folder / "mine.safetensors"))
    assert bench.command("forecast", *named) == InputError.exit_code
    assert "mine.safetensors: no such file, expected a state" in capsys.readouterr().err


def test_a_state_made_again_the_same_is_left_alone(bench: Bench) -> None:
    assert bench.command("initial") == 0
    path = bench.folder / "scratch" / CYCLE / "initial" / "member001.safetensors"
    before = path.stat()
    assert bench.command("initial") == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert bench.command("initial", initial_conditions={"idealised": {"seed": 7}}) == 0
    assert path.stat().st_mtime_ns != before.st_mtime_ns
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    assert bench.command("initial", initial_conditions={"idealised": {"seed": 7}}) == 0
    assert path.read_bytes() == good


def test_locations_are_expanded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    monkeypatch.setenv("PLACE", "gs://bucket")
    file = {"source": "file", "file": {"path": ["~/a_{member:03d}.grib", "${HOME}/b.grib"]}}
    config = Config(bench.config(destination="$PLACE/x", scratch="~/s", initial_conditions=file))
    assert (config.destination, config.given.scratch) == ("gs://bucket/x", f"{bench.folder}/s")
    paths = [f"{bench.folder}/a_{{member:03d}}.grib", f"{bench.folder}/b.grib"]
    assert config.initial_conditions.file.path == paths


def test_whole_numbers_may_have_a_point(bench: Bench) -> None:
    config = Config(bench.config(lead_hours=48.0, members=3.0, forecast={"packing": {"t": 12.0}}))
    assert config.leads[-1] == 48
    assert config.members == (3,)
    assert config.forecast.packing == {"t": 12}
    assert all(type(number) is int for number in (config.lead_hours, config.forecast.packing["t"]))


def test_good_input_makes_what_bad_input_does_not(bench: Bench) -> None:
    """What the table's cases spoil is right, so that they fail for what they name and for nothing else."""
    assert bench.plan() == 0
    assert bench.initial(grib()) == 0
    assert bench.forecast() == 0
    assert [name for name in left_over(bench.folder) if name.endswith(".grib2") and "forecasts" in name]
