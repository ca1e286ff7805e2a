"""The command line: `bokeh-assets …`. Errors are one line on standard error and a non-zero exit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml

from bokeh_assets.errors import InputError, one_line


class _Commands(click.Group):
    """Commands in the order they are written, errors as one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            click.echo(f"bokeh-assets: {one_line(' '.join(error.format_message().split()))}", err=True)
            sys.exit(error.exit_code)
        except InputError as error:
            click.echo(f"bokeh-assets: {error}", err=True)
            sys.exit(1)
        except (click.Abort, KeyboardInterrupt):
            click.echo("bokeh-assets: stopped; what was finished is kept", err=True)
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="bokeh_assets")
def main() -> None:
    """Turn ordinary videos into videos with cinema-grade bokeh."""


_SEGMENTERS = ("auto", "sam2.1_hiera_tiny", "sam2.1_hiera_small", "sam2.1_hiera_base_plus", "sam2.1_hiera_large")
segmenter_option = click.option("--segmenter", type=click.Choice((*_SEGMENTERS, "classical")), help="What makes masks.")
depth_option = click.option(
    "--depth", type=click.Choice(("auto", "vits", "vitb", "vitl", "planes")), help="What makes depth."
)
renderer_option = click.option(
    "--renderer", type=click.Choice(("auto", "any_to_bokeh", "thin_lens")), help="What makes the blur."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cuda, cuda:1 or cpu.")


@main.command()
def demo() -> None:
    """Make a sample clip, run the whole graph on it and print where the result is."""
    from bokeh_assets.atomic import new_file
    from bokeh_assets.media.samples import make_sample, make_sample_mask
    from bokeh_assets.processing import process
    from bokeh_assets.store import VideoStore

    clip = VideoStore().root / "demo" / "bokeh-demo.mp4"
    mask = clip.with_name("first-frame.png")
    if not clip.is_file():
        click.echo(f"making a sample clip: {clip}")
        with new_file(mask) as path:
            make_sample_mask(path)
        with new_file(clip) as path:
            make_sample(path)
    subject = {"subject": [{"frame": 0, "mask": str(mask)}]}
    _report(process(clip, subject, None, device="auto", bars=_at_terminal(), say=click.echo))


@main.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="VIDEO…")
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="WHERE",
    help="box:x0,y0,x1,y1 or point:x,y or mask:FILE, on frame 0 or, with @N at the end, on frame N. May be repeated.",
)
@click.option("--focus", metavar="V", help="subject, or a disparity from 0 (far) to 1 (near).")
@click.option(
    "--k", type=float, metavar="V", help="Blur strength: disc radius at a width of 1024 per unit of disparity."
)
@segmenter_option
@depth_option
@renderer_option
@click.option("--settings", type=click.Path(path_type=Path), metavar="FILE", help="A settings file; see the README.")
@device_option
def run(
    videos: tuple[Path, ...],
    subjects: tuple[str, ...],
    focus: str | None,
    k: float | None,
    segmenter: str | None,
    depth: str | None,
    renderer: str | None,
    settings: Path | None,
    device: str,
) -> None:
    """Make the bokeh video of each VIDEO; what is up to date is not made again.

    What is asked for here is written into the video's settings.yaml, and holds until it is changed.
    """
    from bokeh_assets.processing import process

    over: dict[str, Any] = {"segmenter": segmenter, "depth": depth, "renderer": renderer, "blur": k}
    over["focus"] = _number_or_word(focus)
    over["subject"] = [_subject(text) for text in subjects] or None
    over = {name: value for name, value in over.items() if value is not None}
    failed = 0
    for video in videos:
        try:
            _report(process(video, over, settings, device=device, bars=_at_terminal(), say=click.echo))
        except InputError as error:
            failed += 1
            click.echo(f"bokeh-assets: {error}", err=True)
    if failed:
        sys.exit(1)


@main.command()
@click.argument("csv", type=click.Path(path_type=Path), metavar="CSV")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where results go.")
@renderer_option
@click.option("--frames", is_flag=True, help="Also write every frame as PNG, exactly as rendered.")
@click.option("--fps", type=click.FloatRange(min=0.01), help="Frames per second, where the source's are not known.")
@device_option
def render(csv: Path, out: Path, renderer: str | None, frames: bool, fps: float | None, device: str) -> None:
    """Render a CSV in any-to-bokeh's format (aif_folder,disp_folder,k): fixed focus, changing k, changing focus."""
    from bokeh_assets.csv_rendering import render_csv_file

    for path in render_csv_file(
        csv, out, renderer or "auto", frames=frames, fps=fps, device=device, bars=_at_terminal(), say=click.echo
    ):
        click.echo(str(path))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; the UI has no login.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
def dev(host: str, port: int) -> None:
    """Serve the Dagster UI and the daemon (sensor, backfills) on a home that keeps its history."""
    from bokeh_assets.development import serve
    from bokeh_assets.store import VideoStore

    sys.exit(serve(VideoStore(), host, port, say=click.echo))


@main.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "--intermediates-older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Also remove frames, masks, depth and render pictures of finished videos; they can be made again to the byte.",
)
def clean(dry_run: bool, intermediates_older_than: float | None) -> None:
    """Remove what killed processes left unfinished and the outputs of deleted partitions; never an upload."""
    from bokeh_assets.housekeeping import clean as clean_store
    from bokeh_assets.store import VideoStore

    clean_store(VideoStore(), intermediates_older_than=intermediates_older_than, dry_run=dry_run, say=click.echo)


@main.group()
def checkpoints() -> None:
    """The official model files: list, download, verify."""


@checkpoints.command("list")
def list_checkpoints() -> None:
    """Every official file, its licence, and whether it is here."""
    from bokeh_assets.checkpoints import CHECKPOINTS, checkpoint_dir, find

    click.echo(f"in {checkpoint_dir().absolute()}:")
    for name, checkpoint in CHECKPOINTS.items():
        state = "here" if find(name) else "missing"
        terms = "" if checkpoint.commercial else "  (non-commercial)"
        click.echo(f"  {name:38} {state:8} {checkpoint.licence}{terms}")


@checkpoints.command("download")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--accept-license", is_flag=True, help="I accept the licence of files that are not free to use.")
def download_checkpoints(names: tuple[str, ...], accept_license: bool) -> None:
    """Download official files; interrupted downloads go on where they stopped."""
    from bokeh_assets.checkpoints import download, known

    for name in names:
        known(name)
    for name in names:
        with _byte_bar(name) as progress:
            path = download(name, accept_license=accept_license, progress=progress)
        click.echo(f"{name}: {path}")


@checkpoints.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME…]")
def verify_checkpoints(names: tuple[str, ...]) -> None:
    """Load files strictly and say what is wrong with them; without names, all that are here."""
    from bokeh_assets.checkpoints import CHECKPOINTS, checkpoint_dir, verify

    present = [name for name, c in CHECKPOINTS.items() if (checkpoint_dir() / c.path).exists()]
    problems = 0
    for name in names or present:
        result = verify(name)
        problems += result.problem is not None
        click.echo(f"{name}: {result.problem or 'whole and right'}", err=result.problem is not None)
    if not (names or present):
        click.echo("no checkpoint is here")
    if problems:
        sys.exit(1)


@main.command()
def doctor() -> None:
    """What this machine can run, and what is missing."""
    from bokeh_assets.doctor import examine

    for line in examine():
        click.echo(line)


# --------------------------------------------------------------------------------------------------------------


def _report(result: Path) -> None:
    click.echo(str(result))


def _at_terminal() -> bool:
    return sys.stderr.isatty()


def _number_or_word(text: str | None) -> Any:
    return yaml.safe_load(text) if text is not None else None


def _subject(text: str) -> dict[str, Any]:
    """One --subject option as a prompt of the settings."""
    where, _, frame = text.partition("@") if not text.startswith("mask:") else text.rpartition("@")
    if text.startswith("mask:") and not (where and frame.isdigit()):
        where, frame = text, ""
    kind, _, value = where.partition(":")
    prompt: dict[str, Any] = {"frame": int(frame) if frame.isdigit() else 0}
    if frame and not frame.isdigit():
        raise InputError(f"--subject {text}: the frame after @ is a number counted from 0")
    if kind == "mask" and value:
        return {**prompt, "mask": str(Path(value).absolute())}
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if kind == "box" and len(numbers) == 4:
        return {**prompt, "box": numbers}
    if kind == "point" and len(numbers) == 2:
        return {**prompt, "points": [numbers]}
    raise InputError(f"--subject {text}: write box:x0,y0,x1,y1 or point:x,y or mask:FILE, with @N for frame N")


class _byte_bar:
    """A progress bar in bytes on a terminal, nothing elsewhere."""

    def __init__(self, name: str):
        self._name = name
        self._bar: Any = None

    def __enter__(self) -> Callable[[int, int | None], None]:
        from tqdm import tqdm

        self._bar = tqdm(desc=self._name, unit="B", unit_scale=True, disable=not _at_terminal(), file=sys.stderr)

        def update(done: int, total: int | None) -> None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

        return update

    def __exit__(self, *_: object) -> None:
        self._bar.close()


if __name__ == "__main__":
    main()
