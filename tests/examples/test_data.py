"""The flights of the demo are the day that their README says, cut by the lines that it shows."""

from __future__ import annotations

import csv
import re
from pathlib import Path

DATA = Path(__file__).parents[2] / "examples" / "data"


def test_the_lines_in_the_readme_cut_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"^```python\n(.*?)^```$", (DATA / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    exec(code[1], {})
    assert (tmp_path / "flights-2013-01-01.csv").read_bytes() == (DATA / "flights-2013-01-01.csv").read_bytes()


def test_the_file_holds_842_flights_four_of_them_cancelled():
    with (DATA / "flights-2013-01-01.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 842
    assert sum(row["dep_time"] == "NA" for row in rows) == 4
    assert {row["origin"] for row in rows} == {"EWR", "JFK", "LGA"}
