"""Files nobody should have to open: each is made on the spot, and says what may come of it.

| module | kinds |
| --- | --- |
| `damaged` | truncated, empty, random, bit flips, wrong extension |
| `tricks` | playlists that name other files or addresses, decompression bombs, headers that lie |
| `streams` | what a demuxer and a clock stumble over: resolutions, keyframes, timestamps, tracks, pixels, tags |
| `names` | what an inbox can hold besides: odd names, links, pipes, devices |
"""

from dataclasses import replace

from bokeh_assets_tests.trust.corpus.case import Case
from bokeh_assets_tests.trust.corpus.damaged import damaged
from bokeh_assets_tests.trust.corpus.streams import streams
from bokeh_assets_tests.trust.corpus.tricks import bombs, playlists


def files(*, long: bool = False) -> list[Case]:
    """Every file of the corpus; `long` makes the large ones as large as they should be."""
    cases = [*damaged(), *playlists(), *bombs(long=long), *streams(long=long)]
    return [replace(case, short="extract") if _worth_extracting(case) else case for case in cases]


def _worth_extracting(case: Case) -> bool:
    """Where the trouble only begins behind the first frame."""
    return (
        case.short == "probe"
        and case.frames is not None
        and case.kind in ("resolution", "keyframe", "bomb", "timestamps")
    )


__all__ = ["Case", "bombs", "damaged", "files", "playlists", "streams"]
