"""Lists of names in Snakemake's log: short where they are alike, whole where they are not."""

from __future__ import annotations

import logging

import pytest
from aifs_ensemble.workflow.short_log import ShortNames, short_text, shortened

LEADS = [f"gs://b/c/member{m:03d}_h{h:03d}.grib2" for m in (1, 2) for h in (6, 12, 18)]
MANIFESTS = [f"gs://b/c/member{m:03d}.json" for m in (1, 2)]


def test_names_that_are_alike_become_first_last_and_count() -> None:
    assert shortened([MANIFESTS[0], *LEADS, MANIFESTS[1]]) == [
        *MANIFESTS, "gs://b/c/member001_h006.grib2 ... member002_h018.grib2 (6 files)",
    ]  # fmt: skip
    assert shortened(LEADS[:4]) == LEADS[:4], "a few are named"
    assert shortened([]) == []


@pytest.mark.parametrize("separator", [", ", "\n"])
def test_lists_in_a_text_are_found(separator: str) -> None:
    names = [f"{name} (in storage)" for name in reversed(LEADS)]
    text = f"Missing output files: {separator.join(names)}; Updated input files: a.txt, b.txt"
    assert short_text(text) == (
        "Missing output files: gs://b/c/member001_h006.grib2 (in storage) ... member002_h018.grib2 (in storage) "
        "(6 files); Updated input files: a.txt, b.txt"
    )


@pytest.mark.parametrize(
    "text",
    ["", "a, b, c, d, e, f", "Waiting at most 3 seconds, please (in vain), and so on, or not, as you like, today"],
)
def test_other_texts_stand(text: str) -> None:
    assert short_text(text) == text


def test_records_are_shortened_wherever_they_name_files() -> None:
    record = logging.makeLogRecord({
        "msg": f"missing:\n{chr(10).join(LEADS)}", "output": list(LEADS), "input": list(MANIFESTS), "reason": "forced",
        "job_error_info": [{"output": list(LEADS)}],
    })  # fmt: skip
    assert ShortNames().filter(record)
    short = shortened(LEADS)
    assert (record.output, record.input, record.job_error_info) == (short, MANIFESTS, [{"output": short}])
    assert (record.getMessage(), record.reason) == (f"missing:\n{chr(10).join(LEADS)}", "forced"), "short enough"
    record.msg = f"missing:\n{chr(10).join(LEADS * 5)}"
    ShortNames().filter(record)
    assert record.getMessage() == "missing:\ngs://b/c/member001_h006.grib2 ... member002_h018.grib2 (30 files)"
