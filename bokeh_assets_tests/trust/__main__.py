"""Everything that people and machines may do to the platform, tried in one go.

    python -m bokeh_assets_tests.trust            # some 20 minutes
    python -m bokeh_assets_tests.trust --short    # two minutes, what the fast tests try

Hostile files, sudden death, broken disks, ten thousand uploads: each suite prints its table and fails if anything
was lost. The parts can be run alone too, `python -m bokeh_assets_tests.trust.hostile` and so on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SUITES = {
    "hostile files": (["-m", "bokeh_assets_tests.trust.hostile"], ["--short"]),
    "sudden death": (["-m", "bokeh_assets_tests.trust.kills"], ["--forked", "20", "--real", "0"]),
    "disks that fill, break, vanish": (["-m", "pytest", "-q", f"{HERE}/test_disk.py", "-m", ""], ["-m", "not slow"]),
    "ten thousand uploads": (["-m", "bokeh_assets_tests.trust.scale"], ["--uploads", "500", "--ticks", "2"]),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    outcome = {}
    for name, (words, fewer) in SUITES.items():
        print(f"\n== {name}", flush=True)
        begun = time.monotonic()
        failed = subprocess.run([sys.executable, *words, *(fewer if short else [])]).returncode
        outcome[name] = f"{'LOST SOMETHING' if failed else 'lost nothing':16} {time.monotonic() - begun:6.0f} s"
    print()
    for name, line in outcome.items():
        print(f"{name:36} {line}")
    sys.exit(any(line.startswith("LOST") for line in outcome.values()))


if __name__ == "__main__":
    main()
