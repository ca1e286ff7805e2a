"""When each frame is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("index", "pts", "seconds", "duration", "shot")
_KEY = b"bokeh_assets.source"
_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("pts", pa.int64()),
        ("seconds", pa.float64()),
        ("duration", pa.float64()),
        ("shot", pa.int32()),
    ]
)
# A step back by more than this is a clock that started anew; less is a slip of one frame.
_RESTART_SECONDS = 1.0
# A picture shown longer than this is a clock that jumped.
_LONGEST_SECONDS = 24 * 3600


class Clock:
    """Make the timestamps of a stream complete and strictly rising.

    A missing one is taken from the decoding time, else from the step before; one that does not rise is moved just
    behind the last; a clock that starts anew, or jumps ahead by more than a day, is continued. `repaired` counts what
    had to be changed; `steady` says whether all steps have been equal so far.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self._base = time_base
        self._step = max(1, round(1 / (rate * time_base))) if rate else 1
        self._last: int | None = None
        self._offset = 0
        self._steps_seen = 0
        self.repaired = 0
        self.steady = True

    def __call__(self, pts: int | None, dts: int | None) -> int:
        """Timestamp to use, in ticks of the time base."""
        last, given = self._last, pts if pts is not None else dts
        if given is None:
            now = 0 if last is None else last + self._step
            self.repaired += 1
        else:
            now = given + self._offset
            if last is not None and (now - last) * self._base > _LONGEST_SECONDS:
                self.repaired += 1
                self._offset += last + self._step - now
                now = last + self._step
            elif last is not None and now <= last:
                self.repaired += 1
                if (last - now) * self._base > _RESTART_SECONDS:
                    self._offset += last + self._step - now
                    now = last + self._step
                else:
                    now = last + 1
        if last is not None:
            self.steady &= self._steps_seen == 0 or now - last == self._step
            self._step = now - last
            self._steps_seen += 1
        self._last = now
        return now


def write_timing(path: Path, columns: Sequence[Sequence[Any]], facts: Mapping[str, Any]) -> None:
    """Write `frames.parquet`: the columns of `COLUMNS`, equally long, and facts as JSON in its schema."""
    schema = _SCHEMA.with_metadata({_KEY: json.dumps(dict(facts)).encode()})
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    pq.write_table(table, path)


def read_timing(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read `frames.parquet`: the table, whose `attrs` also hold the time base, and the facts of the source.

    Raises:
        InputError: missing or no such file.
    """
    import pandas as pd

    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[_KEY])
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; make the frames first") from None
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a table of frames; make the frames again") from error
    frame = pd.DataFrame({name: table.column(name).to_numpy() for name in COLUMNS})
    frame.attrs["time_base"] = facts["time_base"]
    return frame, facts
