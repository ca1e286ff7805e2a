"""The hostile corpus: every file tried, and what became of it.

    python -m bokeh_assets_tests.trust.hostile            # everything, minutes
    python -m bokeh_assets_tests.trust.hostile --short    # as the fast tests do

A file is *accepted* when exactly the right frames came out of it, *refused* when one clear line says why none did, and
*lost* in every other case: a crash, a hang, wrong frames, an error that does not name the file, a look at what is not
its business.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bokeh_assets_tests.trust.corpus import files
from bokeh_assets_tests.trust.judging import Trap, Verdict, judge_all, peak_of_children


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: str
    tried: int
    accepted: int
    refused: int
    lost: int
    slowest: float
    """Seconds of the slowest file."""


def rows(verdicts: Sequence[Verdict], snare: Trap) -> list[Row]:
    """The verdicts by kind, and whether anything reached for the canary or the listener."""
    table = []
    for kind in dict.fromkeys(verdict.case.kind for verdict in verdicts):
        of_kind = [verdict for verdict in verdicts if verdict.case.kind == kind]
        lost = sum(bool(verdict.fault) for verdict in of_kind)
        refused = sum(bool(verdict.error) and not verdict.fault for verdict in of_kind)
        slowest = max(verdict.seconds for verdict in of_kind)
        table.append(Row(kind, len(of_kind), len(of_kind) - refused - lost, refused, lost, slowest))
    sprung = int(snare.sprung) + len(snare.calls)
    table.append(Row("reached for another file or address", len(verdicts), 0, len(verdicts) - sprung, sprung, 0.0))
    return table


def run(*, short: bool = False) -> list[Row]:
    """Try the whole corpus."""
    with tempfile.TemporaryDirectory(prefix="bokeh-hostile-") as work:
        verdicts, snare = judge_all(files(long=not short), Path(work), everything=not short)
    for verdict in verdicts:
        if verdict.fault:
            print(f"LOST {verdict.case.name!r}: {verdict.fault}", file=sys.stderr)
    return rows(verdicts, snare)


def main() -> None:
    """Print the table; the exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="the fast tests' share")
    table = run(short=parser.parse_args().short)
    print(f"{'kind':36} {'tried':>6} {'accepted':>9} {'refused':>8} {'lost':>5} {'slowest':>8}")
    for row in table:
        print(f"{row.kind:36} {row.tried:6} {row.accepted:9} {row.refused:8} {row.lost:5} {row.slowest:6.1f} s")
    files_tried = table[:-1]
    total = [sum(getattr(row, name) for row in files_tried) for name in ("tried", "accepted", "refused")]
    lost = sum(row.lost for row in table)
    print(f"{'in all':36} {total[0]:6} {total[1]:9} {total[2]:8} {lost:5}")
    print(f"largest decoder: {peak_of_children() / 2**20:.0f} MiB of memory")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
