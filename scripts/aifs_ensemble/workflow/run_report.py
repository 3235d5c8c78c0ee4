"""The pages of the Snakemake report: what a run is, its members, fields and initial states, its time and cost.

A page is one HTML file ``CATEGORY/NAME.html``, in which figures and tables follow the reader's choice of light or dark.
Beside the first, ``Ensemble/Summary.html``, its content lies as reStructuredText, which `report/workflow.rst` takes in.
"""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import count_members, format_members
from aifs_ensemble.common.text import money, size
from aifs_ensemble.delivery.ensemble import EnsembleStatus, present_status
from aifs_ensemble.planning.account_report import ReadAccount, read_account
from aifs_ensemble.planning.machines import machines_of
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.run_summary import figures_of
from aifs_ensemble.planning.runs import fetch_run

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)
ENSEMBLE, STATES, FIELDS, ACCOUNT = "Ensemble", "Initial conditions", "Fields", "Account"
SUMMARY = "Summary"
_LOUD = ("State", "Warning", "Cost")  # what a reader must not miss
# a browser shows no page of more than 2 MiB in a frame of the report, which holds it in base64
_LARGEST = (2 << 20) * 3 // 4 - 1024
_FIGURES = {
    "gantt": "Members over machines",
    "machine_time": "Machine time",
    "member_times": "Members by time taken",
    "gpu": "Cards",
    "disk_network": "Disk and network",
    "costs": "Cost",
}
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:66rem;padding:0 1rem;"
    "background:light-dark(PAPER);color:light-dark(INK)}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem}div{overflow-x:auto}"
    "img{max-width:100%;height:auto}@media(max-width:640px){img{max-width:none;width:40rem}}"
    "table{border-collapse:collapse;margin:1rem 0 2rem}th,td{padding:.3rem .8rem;text-align:right;"
    "border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent);font-variant-numeric:tabular-nums}"
    "th{font-weight:600}td:first-child,th:first-child{text-align:left}"
    "dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1.2rem}"
    "dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere}"
)


def write_report(config: Config, folder: Path, *, profile: str | None = None) -> EnsembleStatus:
    """Write the pages of a run into `folder`, in place of those that are there, and return the ensemble's state.

    What this machine has no record of is fetched from the destination first. A page that there is nothing for is left
    out, with a line in the log.

    Parameters
    ----------
    profile : on whose machines the run was, as plans name it; by default what the configuration is for

    Raises StorageError when the destination does not answer.
    """
    status = present_status(config)
    if config.destination and not all(config.scratch.manifest(member).exists() for member in config.members):
        fetch_run(config)
    account: ReadAccount | None = None
    with suppress(InputError):  # no member is finished
        account = read_account(config, profile=profile)
    shutil.rmtree(folder, ignore_errors=True)
    facts = list(summary_facts(config, status, account, profile))
    listed = _listed(facts)
    text = ".. raw:: html\n\n" + "".join(f"   {line}\n" for line in listed.splitlines())
    write_bytes(folder / ENSEMBLE / f"{SUMMARY}.rst", text.encode())
    pages = [(ENSEMBLE, SUMMARY, listed), *_ensemble(account)]
    for made in (_initial, _fields):
        try:
            pages += made(config)
        except InputError as error:
            LOG.warning("report: left out: %s", error)
    pages += _account(account)
    for category, name, body in pages:
        heading = "" if "<img" in body else f"<h1>{escape(name)}</h1>"  # figures have their own
        write_bytes(folder / category / f"{name}.html", _page(name, heading + body).encode())
    return status


def summary_facts(
    config: Config, status: EnsembleStatus, account: ReadAccount | None, profile: str | None
) -> Iterator[tuple[str, str]]:
    """Yield what a reader must know first, by name: the forecast, its state, its price."""
    from aifs_ensemble.products.wording import cycle_words

    yield "Cycle", f"{cycle_words(config)} ({config.cycle})"
    yield "Model", f"{config.model.name}: {config.model.title}"
    if config.model.untrained:
        yield "Warning", "Untrained model: this is not a forecast"
    yield "Asked for", f"{count_members(config.members)}, {config.lead_hours} hours"
    yield "State", state_words(status)
    for member, reason in status.reasons.items():
        yield f"Member {member}", reason
    yield "Delivered", f"{status.fields:,} fields, {size(status.bytes)}, in {status.destination}"
    taken = dict(figures_of(account.found)) if account else {}
    if account and len(account.found.members) < len(status.wanted):
        numbers = format_members(member.manifest.member for member in account.found.members)
        taken["Cost"] = f"{taken['Cost']}; of members {numbers}"
    for name in ("From the first start to the last end", "Machines", "Forecast computing", "Cost"):
        if name in taken:
            yield name, taken[name]
    with suppress(WorkflowError):  # a plan that is refused has no price
        planned = plan(plan_case(config, machines_of(config), profile=profile, work=everything(config), runs=()))
        if planned.chosen.usd:
            usual, spot = money(planned.chosen.usd), money(planned.chosen.spot_usd)
            yield "Planned", f"{usual} on demand, {spot} spot, for {count_members(config.members)}"
        elif "Cost" not in taken:
            yield "Planned", "nothing is rented"
    yield "Looked at", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def state_words(status: EnsembleStatus) -> str:
    """Return e.g. ``Short: 3 of 4 members, without member 2``."""
    words = f"{status.state.capitalize()}: {count_members(status.wanted, status.delivered)}"
    if missing := status.missing:
        words += f", without member{'s' if len(missing) > 1 else ''} {format_members(missing)}"
    return words


def _ensemble(account: ReadAccount | None) -> Iterator[tuple[str, str, str]]:
    if account is None:
        return
    import pandas as pd

    from aifs_ensemble.planning.tables import member_frame

    frame = member_frame(account.found.run.manifests)
    shown = pd.DataFrame(
        {
            "member": frame["member"],
            "leads": frame["leads"],
            "fields": frame["fields"].map("{:,}".format),
            "size": frame["bytes"].map(size),
            "seconds": frame["seconds"].map("{:.1f}".format),
            "seconds a step": frame["step_seconds"].map("{:.3f}".format),
            "fields per second": frame["fields_per_second"].map("{:.0f}".format),
            "attempts": frame["attempts"],
        }
    )
    yield ENSEMBLE, "Members", _table(shown)


def _initial(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield the spread of the initial states that are on scratch: rented machines leave theirs in the bucket."""
    states = [path for member in config.members if (path := config.scratch.initial(member)).exists()]
    if states:
        from aifs_ensemble.initial.spread import ensemble_statistics

        frame = ensemble_statistics(states).reset_index()
        for name in ("mean", "spread", "smallest", "largest"):
            frame[name] = frame[name].map("{:.4g}".format)
        yield STATES, "Spread over the members", _table(frame)


def _fields(config: Config) -> Iterator[tuple[str, str, str]]:
    from aifs_ensemble.products.maps import member_maps

    for area, pictures in member_maps(config):
        yield FIELDS, area.title, _picture(area.title, pictures["light"], pictures["dark"])


def _account(account: ReadAccount | None) -> Iterator[tuple[str, str, str]]:
    if account is None:
        return
    from aifs_ensemble.common.themes import DARK, LIGHT, png
    from aifs_ensemble.planning.figures import account_figures

    for name, draw in account_figures(account.found, account.plan, account.recorded_seconds).items():
        yield ACCOUNT, _FIGURES[name], _picture(_FIGURES[name], png(draw, LIGHT), png(draw, DARK))
    for title, frame in account.compared.items():
        shown = frame.map(lambda value: f"{value:,.4g}" if isinstance(value, float) else value)
        yield ACCOUNT, title.capitalize(), _table(shown.replace("nan", ""))


def _picture(name: str, light: bytes, dark: bytes) -> str:
    """Return a figure in both themes, of which the browser shows the reader's."""
    sources = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in (light, dark)]
    if sum(map(len, sources)) > _LARGEST:
        LOG.warning("report: %s: %s in both themes, shown in the light one alone", name, size(sum(map(len, sources))))
        sources[1] = ""
    dark_one = f'<source srcset="{sources[1]}" media="(prefers-color-scheme:dark)">' if sources[1] else ""
    return f'<div><picture>{dark_one}<img src="{sources[0]}" alt="{escape(name)}"></picture></div>'


def _table(frame: pd.DataFrame) -> str:
    return f"<div>{frame.to_html(index=False, border=0)}</div>"


def _listed(facts: Sequence[tuple[str, str]]) -> str:
    rows = [
        f"<dt>{escape(name)}</dt><dd>{f'<strong>{escape(text)}</strong>' if name in _LOUD else escape(text)}</dd>"
        for name, text in facts
    ]
    return "\n".join(["<dl>", *rows, "</dl>"])


def _page(title: str, body: str) -> str:
    from aifs_ensemble.common.themes import DARK, LIGHT

    style = _STYLE.replace("PAPER", f"{LIGHT.paper},{DARK.paper}").replace("INK", f"{LIGHT.ink},{DARK.ink}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style>\n{body}\n"
    )
