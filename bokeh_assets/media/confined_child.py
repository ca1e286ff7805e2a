"""The process in which an upload is parsed; started by `confined`, of no use by itself.

It takes a task as one line of JSON on standard input, imports what the job needs, binds itself, and only then opens
the file. It answers on standard output: `{"frames": n}` as a sign of life, then one line with what came out.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bokeh_assets.errors import InputError
from bokeh_assets.media import sandbox

Tell = Callable[[int], None]
# Faults of the machine, not of the file.
_NOT_THE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_MASK_PIXELS = 1 << 26


def _probe(request: dict[str, Any]) -> Callable[[Tell], Any]:
    from bokeh_assets.media.probe import probe

    return lambda tell: asdict(probe(Path(request["path"])))


def _extract(request: dict[str, Any]) -> Callable[[Tell], Any]:
    from bokeh_assets.media.extract import extract_frames

    source, folder = Path(request["source"]), Path(request["folder"])
    return lambda tell: asdict(extract_frames(source, folder, format=request["format"], progress=tell))


def _encode(request: dict[str, Any]) -> Callable[[Tell], Any]:
    import pandas as pd

    from bokeh_assets.media.encode import encode

    timing = pd.DataFrame(request["timing"])
    if request["time_base"] is not None:
        timing.attrs["time_base"] = request["time_base"]
    source = Path(request["source"]) if request["source"] is not None else None
    how = {"codec": request["codec"], "quality": request["quality"]}
    frames = _arrays(sys.stdin.buffer)
    out = Path(request["out"])
    return lambda tell: asdict(encode(frames, out, timing=timing, source=source, progress=tell, **how))


def _mask(request: dict[str, Any]) -> Callable[[Tell], Any]:
    import cv2

    from bokeh_assets.media.frames import write_picture

    mask, target = Path(request["mask"]), Path(request["target"])

    def run(tell: Tell) -> None:
        try:
            picture: Any = cv2.imdecode(np.fromfile(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        except cv2.error as error:
            raise InputError(f"subject mask {mask} cannot be read as a picture ({error.err})") from None
        if picture is None:
            raise InputError(f"subject mask {mask} cannot be read as a picture; give a PNG of the frame's size")
        if picture.size > _MASK_PIXELS:
            raise InputError(f"subject mask {mask} is {picture.shape[1]}x{picture.shape[0]}; give the frame's size")
        write_picture(target, picture)

    return run


def _presentation(request: dict[str, Any]) -> Callable[[Tell], Any]:
    from bokeh_assets.media.presentation import read_presentation

    return lambda tell: asdict(read_presentation(Path(request["path"])))


_JOBS = {"probe": _probe, "extract": _extract, "encode": _encode, "mask": _mask, "presentation": _presentation}


def _arrays(file: BinaryIO) -> Iterator[NDArray[np.uint8]]:
    while head := file.readline():
        told = json.loads(head)
        array = np.empty(told["shape"], told["dtype"])
        view = array.reshape(-1).view(np.uint8).data
        if file.readinto(view) != array.nbytes:  # type: ignore[attr-defined]
            raise EOFError("the frames stopped in the middle of one")
        yield array


def main() -> None:
    """Do the one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, and it ends us
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries that print must not talk to the parent
    task = json.loads(sys.stdin.buffer.readline())
    sandbox.end_with_parent(task["parent"])
    limits = task["limits"]
    budget = limits["seconds"]
    told_at = 0.0

    def tell(frames: int) -> None:
        nonlocal told_at
        sandbox.allow_seconds(budget + frames * limits["seconds_per_frame"])
        now = time.monotonic()
        if now - told_at > 0.02:
            told_at = now
            answers.write(json.dumps({"frames": frames}).encode() + b"\n")

    try:
        run = _JOBS[task["job"]](task["request"]) if task["job"] != "bounds" else None
        places = {name: [Path(path) for path in task[name]] for name in ("read", "write")}
        held = sandbox.confine(**places, memory=limits["memory"], seconds=budget)
        answers.write(b'{"frames": 0}\n')  # from here on, the file is to blame
        answer = {"result": held if run is None else run(tell)}
    except InputError as error:
        answer = {"input_error": str(error)}
    except MemoryError as error:
        answer = {"error": str(error) or "out of memory", "memory": True}
    except Exception as error:
        trace = traceback.format_exc()
        name = os.fsdecode(getattr(error, "filename", None) or b"")
        ours = any(name.startswith(place) for place in task["write"])
        if isinstance(error, OSError) and (error.errno in _NOT_THE_FILE or ours):
            answer = {"os_error": [error.errno, error.strerror, name or None]}
        else:
            short = any(hint in str(error) for hint in ("Cannot allocate memory", "Insufficient memory"))
            answer = {"error": f"{type(error).__name__}: {error}", "memory": short, "trace": trace}
    answers.write(json.dumps(answer, default=str).encode() + b"\n")
    answers.close()
    os._exit(0)


if __name__ == "__main__":
    main()
