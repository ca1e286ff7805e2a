"""Uploads are parsed in a process of their own, which may crash, hang or be taken over without harm.

`probe`, `extract_frames`, `encode`, `read_presentation` and `plain_masks` here do what the functions of that name do,
in a child process that is bound by `sandbox.confine` before it opens the file: it can read the one file, write the one
output, and reach nothing else. The parent never looks at the file; it takes JSON from the child, so that not even a
child under foreign control gets code into it. Whatever befalls the child becomes one InputError that names the file.

The watchdog: a child that says nothing for `Limits.patience` seconds while we wait for it is killed. Processor time is
bounded per frame, so that long films may take long and a bomb may not. The child dies with its parent.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from bokeh_assets.errors import InputError, one_line
from bokeh_assets.files import open_regular

if TYPE_CHECKING:
    import pandas as pd

    from bokeh_assets.media.encode import EncodeReport
    from bokeh_assets.media.extract import FramesReport
    from bokeh_assets.media.presentation import Presentation
    from bokeh_assets.media.probe import VideoInfo

Progress = Callable[[int], None]

_log = logging.getLogger(__name__)
_LONGEST_MESSAGE = 16 << 20
_START = "import sys; sys.path[:] = sys.argv[1:]; from bokeh_assets.media.confined_child import main; main()"


@dataclass(frozen=True)
class Limits:
    """Bounds of a child.

    memory: bytes of address space on top of the interpreter and its libraries; 7680x4320 in 10 bits fits well.
    seconds: of processor time.
    seconds_per_frame: of processor time that each finished frame adds.
    patience: seconds on the clock without a sign of life.
    """

    memory: int = 8 << 30
    seconds: float = 120.0
    seconds_per_frame: float = 20.0
    patience: float = 180.0


LIMITS = Limits()


def bounds() -> tuple[str, ...]:
    """What this system can bind a child in, of `"memory"`, `"time"`, `"files"`, `"network"` (see `sandbox`)."""
    with Child("bounds", {}, Path("nothing")) as child:
        return tuple(child.result())


def probe(path: Path, limits: Limits = LIMITS) -> VideoInfo:
    """As `probe.probe`, confined.

    Raises:
        InputError: as there; or the file crashed, stalled or overran the limits of its reader.
    """
    with Child("probe", {"path": str(path)}, path, read=[path], limits=limits) as child:
        return _info(child.result())


def read_presentation(path: Path, limits: Limits = LIMITS) -> Presentation:
    """As `presentation.read_presentation`, confined: a result holds sound of the upload. Errors are `probe`'s."""
    from bokeh_assets.media.presentation import Presentation

    with Child("presentation", {"path": str(path)}, path, read=[path], limits=limits) as child:
        return _plain(Presentation, child.result())


def extract_frames(
    source: Path, folder: Path, *, format: str = "png", progress: Progress | None = None, limits: Limits = LIMITS
) -> FramesReport:
    """As `extract.extract_frames`, confined. Errors are those and `probe`'s."""
    from bokeh_assets.media.extract import FramesReport

    folder.mkdir(parents=True, exist_ok=True)
    request = {"source": str(source), "folder": str(folder), "format": format}
    with Child("extract", request, source, read=[source], write=[folder], limits=limits) as child:
        made = child.result(progress)
    if progress is not None:
        progress(made["count"])
    return FramesReport(**{**made, "folder": folder, "info": _info(made["info"])})


def encode(
    frames: Iterable[NDArray[np.uint8]],
    out: Path,
    *,
    timing: pd.DataFrame,
    source: Path | None = None,
    codec: str = "h264",
    quality: int = 18,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> EncodeReport:
    """As `encode.encode`, confined: the child reads sound and tags of `source`, frames are handed to it."""
    from bokeh_assets.media.colour import Colour
    from bokeh_assets.media.encode import EncodeReport

    out.touch()
    request = {
        "out": str(out),
        "source": str(source) if source is not None else None,
        "codec": codec,
        "quality": quality,
        "timing": {name: timing[name].tolist() for name in ("pts", "seconds", "duration")},
        "time_base": timing.attrs.get("time_base"),
    }
    read = [source] if source is not None else []
    with Child("encode", request, source or out, read=read, write=[out], limits=limits) as child:
        for frame in frames:
            if not child.send_array(frame, progress):
                break
        child.close_input()
        made = child.result(progress)
    if progress is not None:
        progress(made["frames"])
    lines = {name: tuple(made[name]) for name in ("audio", "notes")}
    return EncodeReport(**{**made, **lines, "path": out, "colour": _plain(Colour, made["colour"])})


def plain_masks(masks: Sequence[Path], folder: Path, limits: Limits = LIMITS) -> list[Path]:
    """Pictures somebody uploaded, decoded confined, as plain 8-bit grey PNG files in `folder` (which exists).

    Raises:
        InputError: one of them is no picture, is too large, or overran the limits of its reader.
    """
    made = []
    for number, mask in enumerate(masks):
        target = folder / f"{number:05d}.png"
        request = {"mask": str(mask), "target": str(target)}
        with Child("mask", request, mask, read=[mask], write=[folder], limits=limits) as child:
            child.result()
        made.append(target)
    return made


class Child:
    """A confined process at work on one file. Use it in a `with` block; leaving that ends it.

    Args:
        job: name of the job in `confined_child`.
        request: what the job is to do, as JSON takes it.
        file: the file to name when something goes wrong.
        read: files the child may read, each of which must be a plain file.
        write: files (existing) and folders the child may write.
    """

    def __init__(
        self,
        job: str,
        request: dict[str, Any],
        file: Path,
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        limits: Limits = LIMITS,
    ) -> None:
        for path in read:
            open_regular(path).close()
        self._file, self._limits = file, limits
        self._messages = bytearray()
        self._started = False
        self._answer: dict[str, Any] | None = None
        # Only what an interpreter needs to start: nothing secret of our environment is in the child.
        kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment["OPENBLAS_NUM_THREADS"] = "1"
        self._process = subprocess.Popen(
            # Isolated (-I): a module that lies in the working folder is not imported. It searches where we do.
            [sys.executable, "-I", "-c", _START, *(path or os.getcwd() for path in sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._to, self._from = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        os.set_blocking(self._to.fileno(), False)
        task = {"job": job, "request": request, "limits": asdict(limits), "parent": os.getpid()}
        task |= {"read": [os.path.abspath(p) for p in read], "write": [os.path.abspath(p) for p in write]}
        self._told: Progress | None = None
        try:
            self._send(json.dumps(task).encode() + b"\n")
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill the process if it still runs, and wait for it."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        with suppress(OSError):
            self._to.close()

    def send_array(self, array: NDArray[np.uint8], progress: Progress | None = None) -> bool:
        """Hand over an array; False if the child has its answer already and takes no more."""
        self._told = progress
        array = np.ascontiguousarray(array)
        head = json.dumps({"shape": array.shape, "dtype": str(array.dtype)}).encode() + b"\n"
        return self._send(head) and self._send(array.reshape(-1).view(np.uint8).data)

    def close_input(self) -> None:
        """Say that nothing more is coming."""
        with suppress(OSError):
            self._to.close()

    def result(self, progress: Progress | None = None) -> Any:
        """What the job returned, as plain JSON data.

        Raises:
            InputError: what the job raised, or what befell it.
            OSError: the job met one that is not about the file (a full disk).
        """
        self._told = progress
        while self._answer is None:
            self._listen(self._limits.patience)
        answer = self._answer
        if "result" in answer:
            return answer["result"]
        if "input_error" in answer:
            raise InputError(str(answer["input_error"]))
        if "os_error" in answer:
            number, text, name = answer["os_error"]
            raise OSError(number, text, name)
        _log.info("%s", answer.get("trace"))
        what = one_line(" ".join(str(answer.get("error")).split()))[:300]
        if answer.get("memory"):
            raise self._lost(f"needs more than {self._limits.memory / 2**30:g} GiB of memory to decode ({what})")
        raise self._lost(f"cannot be decoded ({what})")

    def _send(self, data: bytes | memoryview) -> bool:
        """Write all of `data`, listening meanwhile; False if the child has answered instead of reading on."""
        rest = memoryview(data)
        deadline = time.monotonic() + self._limits.patience
        while rest and self._answer is None:
            readable, writable = _ready(self._from, self._to, deadline - time.monotonic())
            if readable:
                self._listen(0)
            if writable:
                try:
                    rest = rest[os.write(self._to.fileno(), rest) :]
                except BrokenPipeError:
                    self._listen(self._limits.patience)
                    continue
            if not readable and not writable:
                raise self._stalled()
            deadline = time.monotonic() + self._limits.patience
        return self._answer is None

    def _listen(self, patience: float) -> None:
        """Take what the child says within `patience` seconds."""
        if not _ready(self._from, None, patience)[0]:
            raise self._stalled()
        data = os.read(self._from.fileno(), 1 << 16)
        if not data:
            raise self._died()
        self._messages += data
        if len(self._messages) > _LONGEST_MESSAGE:
            raise self._lost("makes its decoder talk without end")
        while (end := self._messages.find(b"\n")) >= 0:
            line = bytes(self._messages[:end])
            del self._messages[: end + 1]
            try:
                message = json.loads(line)
            except ValueError:
                raise self._lost("makes its decoder talk nonsense") from None
            if not isinstance(message, dict):
                raise self._lost("makes its decoder talk nonsense")
            self._started = True
            if "frames" in message:
                if self._told is not None and int(message["frames"]):
                    self._told(int(message["frames"]))
            else:
                self._answer = message

    def _died(self) -> Exception:
        code = self._process.wait()
        if not self._started:
            return RuntimeError(
                f"the process that decodes uploads cannot start (status {code}); see bokeh-assets doctor"
            )
        if code >= 0:
            return self._lost(f"ended its decoder (exit status {code})")
        if -code == signal.SIGXCPU:
            return self._lost("takes more processor time than a video of its length may")
        if -code == signal.SIGKILL:
            return self._lost("got its decoder killed by the system, most likely for want of memory")
        return self._lost(f"crashed its decoder ({signal.Signals(-code).name})")

    def _stalled(self) -> InputError:
        return self._lost(f"made no progress for {self._limits.patience:g} seconds")

    def _lost(self, what: str) -> InputError:
        return InputError(f"{self._file} {what}; convert it with a trusted tool, or leave it out")


def _ready(source: BinaryIO, sink: BinaryIO | None, seconds: float) -> tuple[bool, bool]:
    """Whether one can be read and the other written; waits at most so long for either."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    if sink is not None:
        poll.register(sink, select.POLLOUT)
    found = {number for number, _ in poll.poll(max(0.0, seconds) * 1000)}
    return source.fileno() in found, sink is not None and sink.fileno() in found


def _plain(kind: type[Any], data: dict[str, Any]) -> Any:
    """A dataclass of plain fields from JSON; lists become tuples, as nothing here holds a list."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in known})


def _info(data: dict[str, Any]) -> VideoInfo:
    from bokeh_assets.media.colour import Colour
    from bokeh_assets.media.probe import AudioInfo, VideoInfo

    return VideoInfo(
        **{
            **data,
            "path": Path(data["path"]),
            "sample_aspect_ratio": Fraction(data["sample_aspect_ratio"]),
            "time_base": Fraction(data["time_base"]),
            "colour": _plain(Colour, data["colour"]),
            "audio": tuple(_plain(AudioInfo, track) for track in data["audio"]),
        }
    )
