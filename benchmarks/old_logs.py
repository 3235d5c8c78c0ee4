"""Past runs from the logs that users kept (run.txt of their multi-member script), accounted for like any other.

    python benchmarks/old_logs.py run.txt          # members, time and cost; what does not add up
    python benchmarks/old_logs.py --baseline       # whether the recorded baseline agrees with itself

Lenient about form: whatever line names a member and a time, in any of the usual spellings. Strict about arithmetic:
what a log says of itself in its totals is compared with its members, and every disagreement is told.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from math import isnan
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from aifs_ensemble.common.errors import InputError, WorkflowError  # noqa: E402
from aifs_ensemble.common.text import duration, money, size, table  # noqa: E402
from aifs_ensemble.planning.machines import Machines, load_machines  # noqa: E402
from aifs_ensemble.planning.throughput import Baseline, load_throughput  # noqa: E402

_MEMBER = re.compile(r"\b(?:members?|mem|ens|pf)[\s_#:=-]*0*(\d{1,3})\b(?![-–]\d)", re.IGNORECASE)
_RANGE = re.compile(r"\bmembers?[\s_#:=-]*0*(\d{1,3})\s*(?:-|–|to)\s*0*(\d{1,3})\b(?!\.\d|\s*[hms])", re.IGNORECASE)
_COUNT = re.compile(r"(?<![\d:.])(\d+)\s+(?:ensemble\s+)?members\b", re.IGNORECASE)
_TIME = re.compile(
    r"(?<![\w.:])(\d+(?:\.\d+)?)\s*(hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z/])", re.IGNORECASE
)
_CLOCK = re.compile(r"(?:took|in|time|elapsed|duration)[\s:=]*(\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)?\b", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(TB|TiB|GB|GiB|MB|MiB)\b", re.IGNORECASE)
_FAILED = re.compile(r"\b(fail(?:ed|ure)?|error|crash(?:ed)?|out of memory|no space|killed|traceback)\b", re.IGNORECASE)
_TOTAL = re.compile(r"\b(total|all members|summary|overall|finished all|complete[d]?:)\b", re.IGNORECASE)
_RATE = re.compile(r"\b(?:avg|average|mean|per[ -](?:member|step)|eta|remaining|a member)\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,:])\d{1,3}(?:,\d{3})+(?![\d,])")
_BYTES = {"mb": 1e6, "gb": 1e9, "tb": 1e12, "mib": 2**20, "gib": 2**30, "tib": 2**40}
# How far figures that were rounded for a log may be apart.
TOLERANCE = 0.02
# Characters of a line that are read, and the largest figure that is one: longer ones are no line of a log.
LONGEST_LINE = 1000
LARGEST = 1e15


@dataclass(frozen=True)
class OldMember:
    """One member as a line of a log tells it; NaN where it does not say."""

    member: int
    seconds: float
    bytes: float
    failed: bool
    line: int


@dataclass(frozen=True)
class OldTotal:
    """What a log says of all its members together."""

    members: int | None
    seconds: float | None
    bytes: float | None
    line: int


@dataclass(frozen=True)
class OldRun:
    """A log's members, its totals and what does not add up."""

    path: Path
    members: tuple[OldMember, ...]
    totals: tuple[OldTotal, ...]
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds of all members that the log lists; else of its totals."""
        told = [member.seconds for member in self.members if not isnan(member.seconds)]
        return sum(told) if told else sum(total.seconds or 0.0 for total in self.totals)

    def usd(self, machines: Machines, machine: str, region: str, *, coiled: bool = False) -> float:
        """Return what the seconds cost on a machine, on demand, failed members included."""
        kind = machines.machine(machine)
        hour = kind.price(region).on_demand + (machines.coiled_hour(kind) if coiled else 0.0)
        return self.seconds / 3600 * hour


def seconds_in(text: str) -> float | None:
    """Return the time that a text names, all its parts together: ``7m23s``, ``7.4 min``, ``0:07:23``."""
    text = _plain(text)
    clock = _CLOCK.search(text)
    if clock:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
    parts = re.sub(r"(\d)([hm])(\d)", r"\1\2 \3", text, flags=re.IGNORECASE)
    found: dict[str, float] = {}
    for value, unit in _TIME.findall(parts):
        # a second time in the same unit is another figure, such as an average
        found.setdefault(unit[0].lower(), float(value))
    factors = {"h": 3600, "m": 60, "s": 1}
    total = sum(value * factors[unit] for unit, value in found.items())
    return total if found and total <= LARGEST else None


def bytes_in(text: str) -> float | None:
    """Return the first size that a text names."""
    match = _SIZE.search(_plain(text))
    found = float(match[1]) * _BYTES[match[2].lower()] if match else None
    return None if found is None or found > LARGEST else found


def _plain(text: str) -> str:
    """Return a text with numbers as Python has them: ``3,101`` is three thousand, ``15,35`` fifteen and a third."""
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return re.sub(r"(?<![\d.,:])(\d+),(\d{1,2})(?![\d,])", r"\1.\2", text)


def read_old_log(path: Path, baseline: Baseline | None = None) -> OldRun:
    """Return what a log tells; InputError when no line of it names a member's time or size.

    With `baseline`, totals are also compared with so many of its members.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a log of past runs") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a log of past runs") from None
    members: list[OldMember] = []
    totals: list[OldTotal] = []
    for number, whole in enumerate(lines, 1):
        line = whole[:LONGEST_LINE]
        several, member = _several(line), _MEMBER.search(_RANGE.sub(" ", _COUNT.sub(" ", line)))
        if several and (member is None or _TOTAL.search(line)):
            total = OldTotal(several, seconds_in(_shown(line)), bytes_in(line), number)
            if total.seconds or total.bytes:
                totals.append(total)
        elif member is None and _TOTAL.search(line) and (seconds_in(_shown(line)) or bytes_in(line)):
            totals.append(OldTotal(None, seconds_in(_shown(line)), bytes_in(line), number))
        elif member is not None and not _RATE.search(line):
            told, weight = seconds_in(_shown(line)), bytes_in(line)
            failed = bool(_FAILED.search(line))
            if told is not None or weight is not None or failed:
                members = _noted(members, OldMember(int(member[1]), _or_nan(told), _or_nan(weight), failed, number))
    if not members and not any(total.members and total.seconds and total.bytes for total in totals):
        raise InputError(f"{path}: no line names a member with its time or size, expected a log of past runs")
    return OldRun(path, tuple(members), tuple(totals), tuple(_problems(members, totals, baseline)))


def _several(line: str) -> int | None:
    """Return how many members a line is about that counts them or gives the first and the last; None for no such."""
    count, ends = _COUNT.search(line), _RANGE.search(line)
    if count and len(count[1]) <= 4:
        return int(count[1])
    return int(ends[2]) - int(ends[1]) + 1 if ends else None


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _shown(line: str) -> str:
    """Return a line without the time of day that loggers put in front of it, and without rates."""
    line = re.sub(r"^\W*\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*Z?|^\W*\d\d:\d\d:\d\d\b", "", line)
    return re.sub(r"\d+(?:\.\d+)?\s*s\s*(?:/|per )\s*\w+", "", line)


def _noted(members: list[OldMember], new: OldMember) -> list[OldMember]:
    """Add a member; a line that only adds to what the last one told of the same run completes it."""
    if members and members[-1].member == new.member and not new.failed and not members[-1].failed:
        last = members[-1]
        known_twice = not (isnan(last.seconds) or isnan(new.seconds)) or not (isnan(last.bytes) or isnan(new.bytes))
        if not known_twice:
            seconds = new.seconds if isnan(last.seconds) else last.seconds
            weight = new.bytes if isnan(last.bytes) else last.bytes
            return [*members[:-1], OldMember(new.member, seconds, weight, last.failed, last.line)]
    return [*members, new]


def _apart(said: float, found: float) -> bool:
    return abs(said - found) > TOLERANCE * max(abs(said), abs(found))


def _problems(members: list[OldMember], totals: list[OldTotal], baseline: Baseline | None) -> list[str]:
    """Return every disagreement between totals and members, and between totals and the usual member."""
    found = []
    done = [member for member in members if not member.failed]
    twice = sorted({m.member for m in done if sum(other.member == m.member for other in done) > 1})
    if twice:
        found.append(f"members {', '.join(map(str, twice))} appear more than once: each run of theirs was paid")
    for total in totals:
        where = f"line {total.line}"
        if members and total.members is not None and total.members != len({m.member for m in done}):
            found.append(
                f"{where}: {total.members} members, the log lists {len({m.member for m in done})} finished ones"
            )
        for name, said, parts, unit in (
            ("time", total.seconds, [m.seconds for m in done], 60.0),
            ("size", total.bytes, [m.bytes for m in done], 1e9),
        ):
            told = [value for value in parts if not isnan(value)]
            if said is not None and told and len(told) == len(parts) and _apart(said, sum(told)):
                word = "min" if unit == 60 else "GB"
                found.append(
                    f"{where}: {name} {said / unit:.2f} {word}, its members add up to {sum(told) / unit:.2f} {word}"
                )
        if baseline is not None and total.members is not None:
            found += _unusual(total, total.members, baseline, where)
    return found


def _unusual(total: OldTotal, members: int, baseline: Baseline, where: str) -> list[str]:
    """Return whether time and size both speak for another number of members than the total says."""
    by_time = total.seconds / baseline.member_seconds if total.seconds else None
    by_size = total.bytes / (baseline.member_gb * 1e9) if total.bytes else None
    counts = [value for value in (by_time, by_size) if value is not None]
    likely = {round(value) for value in counts}
    close = all(not _apart(value, round(value)) for value in counts)
    if len(counts) < 2 or len(likely) != 1 or not close or members in likely:
        return []
    number, minutes, gigabytes = likely.pop(), (total.seconds or 0) / 60, (total.bytes or 0) / 1e9
    return [
        f"{where}: {members} members, but {minutes:.1f} min is {by_time:.2f} x {baseline.member_seconds:g} s and "
        f"{gigabytes:.2f} GB is {by_size:.2f} x {baseline.member_gb:g} GB: that is {number} members"
    ]


@dataclass(frozen=True)
class Check:
    """A recorded figure, what the others make of it, and whether they agree."""

    recorded: str
    computed: str
    agrees: bool


def check_baseline(baseline: Baseline, machines: Machines, region: str = "us-central1") -> list[Check]:
    """Return the arithmetic of the recorded figures against each other and against the machine's price."""
    machine = machines.machine(baseline.machine)
    price = machine.price(region).on_demand
    with_fee = price + machines.coiled_hour(machine)
    hours = baseline.members * baseline.member_seconds / 3600
    low, high = baseline.ensemble_hours
    cheap, dear = baseline.ensemble_usd
    implied = baseline.member_usd / baseline.member_seconds * 3600
    total = baseline.members * baseline.member_usd
    spare = [(end - hours) * 3600 / baseline.members for end in (low, high)]
    return [
        Check(
            f"{low:g} to {high:g} h for {baseline.members} members",
            f"{baseline.members} x {baseline.member_seconds:g} s = {hours:.2f} h, which leaves {spare[0]:.0f} to "
            f"{spare[1]:.0f} s a member for what the {baseline.member_seconds:g} s do not hold",
            low >= hours,
        ),
        Check(
            f"${cheap:g} to ${dear:g} for {baseline.members} members",
            f"{baseline.members} x ${baseline.member_usd:g} = ${total:.2f}; ${cheap:g} to ${dear:g} is "
            f"${cheap / baseline.members:.2f} to ${dear / baseline.members:.2f} a member",
            cheap <= total <= dear,
        ),
        Check(
            f"${baseline.member_usd:g} for {baseline.member_seconds:g} s",
            f"${implied:.2f} an hour; {machine.name} is ${price:.2f} on demand in {region} "
            f"(${price * baseline.member_seconds / 3600:.2f} a member), ${with_fee:.2f} with Coiled's fee "
            f"(${with_fee * baseline.member_seconds / 3600:.2f})",
            implied <= with_fee * 1.05,
        ),
        Check(
            f"${cheap:g} to ${dear:g} for {low:g} to {high:g} h",
            f"${cheap / low:.2f} to ${dear / high:.2f} an hour, between the machine's price and that with the fee "
            f"(${price:.2f} to ${with_fee:.2f})",
            price <= cheap / low and dear / high <= with_fee,
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the account of logs, or the check of the baseline; an error is one line and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG", help="logs of past runs")
    parser.add_argument("--baseline", action="store_true", help="check the recorded baseline's arithmetic")
    parser.add_argument("--region", default="us-central1", help="where the machine's price is taken from")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="your own prices over config/machines.yaml")
    args = parser.parse_args(arguments)
    if not args.logs and not args.baseline:
        parser.error("expected a log, or --baseline")
    try:
        machines = load_machines(prices=args.prices)
        baseline = load_throughput(machines.gpu_specs).baseline
        if args.baseline:
            checks = check_baseline(baseline, machines, args.region)
            rows = [("agrees" if c.agrees else "DOES NOT", c.recorded, c.computed) for c in checks]
            print("\n".join(table(rows, ("", "recorded", "computed"))))
        for path in args.logs:
            print("\n".join(_log_lines(path, baseline, machines, args.region)))
    except WorkflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _log_lines(path: Path, baseline: Baseline, machines: Machines, region: str) -> list[str]:
    found = read_old_log(path, baseline)
    done = [member for member in found.members if not member.failed]
    weight = sum(member.bytes for member in done if not isnan(member.bytes))
    usd = found.usd(machines, baseline.machine, region)
    each = f", {money(usd / len(done))} a member" if done else ""
    summary = (
        f"{path}: {len(done)} members finished, {len(found.members) - len(done)} failed, {duration(found.seconds)}, "
        f"{size(weight)}, {money(usd)} on {baseline.machine} on demand{each}"
    )
    return [summary, *(f"  does not add up: {problem}" for problem in found.problems)]


if __name__ == "__main__":
    sys.exit(main())
