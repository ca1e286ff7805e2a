"""VideoSettings: the look of one video, and how it is merged from defaults, its file and the run."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bokeh_assets.atomic import new_file
from bokeh_assets.errors import InputError
from bokeh_assets.files import read_small
from bokeh_assets.focus import BlurSpec, FocusSpec
from bokeh_assets.rendering.lens import Lens
from bokeh_assets.segmentation.prompts import Prompt

_LARGEST = 256 * 1024
_LARGEST_MASK = 64 << 20
_MOST_MASKS = 100


class FrameSettings(BaseModel):
    """How frames are kept on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["png", "jpg"] = Field("png", description="png is exact; jpg takes a fifth of the disk")


class OutputSettings(BaseModel):
    """How the result is encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    codec: Literal["h264", "hevc", "av1"] = "h264"
    quality: int = Field(18, ge=0, le=51, description="Constant rate factor: 0 is lossless, 18 looks it, 28 is small")


class VideoSettings(BaseModel):
    """Everything a user may say about one video. Coordinates are pixels of the upright frame, time is seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: tuple[Prompt, ...] = Field((), description="Where the subject is; none given: one is chosen")
    focus: FocusSpec = Field(FocusSpec.model_validate("subject"), description="subject, a disparity, or keyframes")
    blur: BlurSpec = Field(BlurSpec.model_validate(16), description="Blur strength k, or keyframes")
    segmenter: Literal[
        "auto",
        "sam2.1_hiera_tiny",
        "sam2.1_hiera_small",
        "sam2.1_hiera_base_plus",
        "sam2.1_hiera_large",
        "classical",
    ] = "auto"
    refine_edges: bool = Field(False, description="Mattes follow the colours beside their outline, where those tell")
    depth: Literal["auto", "vits", "vitb", "vitl", "planes"] = "auto"
    renderer: Literal["auto", "any_to_bokeh", "thin_lens"] = "auto"
    commercial_only: bool = Field(False, description="auto passes over engines whose weights are non-commercial")
    lens: Lens = Lens()
    frames: FrameSettings = FrameSettings()
    output: OutputSettings = OutputSettings()


def parse_settings(data: Any, origin: str) -> VideoSettings:
    """Settings from plain data (as YAML gives it).

    Raises:
        InputError: one line naming `origin`, the first setting that is wrong, and the nearest right name.
    """
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise InputError(f"{origin}: settings are `name: value` pairs, not {type(data).__name__}")
    try:
        return VideoSettings.model_validate(dict(data))
    except ValidationError as error:
        raise InputError(f"{origin}: {_first_problem(error)}") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, a few of which stand for billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)


def read_settings(path: Path, *, links: bool = True) -> dict[str, Any]:
    """The plain data of a settings file, checked, with mask paths made absolute.

    Args:
        path: the file, of at most 256 KiB.
        links: follow it if it is a symbolic link.

    Raises:
        InputError: the file cannot be read, is not YAML, or says something `VideoSettings` does not know; or a
            mask lies outside the folder of the file.
    """
    try:
        data = yaml.load(read_small(path, _LARGEST, links=links).decode(), _Loader)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise InputError(f"{path}: not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())[:300]})") from None
    parse_settings(data, str(path))
    return _with_whole_mask_paths(data or {}, path.parent, str(path))


def merged_settings(folder_settings: Path, overrides: Mapping[str, Any]) -> VideoSettings:
    """The settings in force: the run's own over the video's file over the defaults.

    A setting given by the run replaces the file's as a whole, except `lens`, `frames` and `output`, whose parts
    are merged one by one.

    Raises:
        InputError: as `read_settings` and `parse_settings`.
    """
    data = read_settings(folder_settings) if folder_settings.is_file() else {}
    parse_settings(overrides, "run config")
    over = _with_whole_mask_paths(overrides, folder_settings.parent, "run config")
    return parse_settings(_merge(data, over), f"{folder_settings} with the run's own settings")


def adopt_settings(
    source: Path, folder: Path, overrides: Mapping[str, Any] | None = None, *, links: bool = True
) -> None:
    """Makes `source`, with `overrides` laid over it, the settings of the video in `folder`.

    Mask pictures are copied into the folder's `prompts`, so that the video keeps everything it needs. Those that
    `source` names lie in its folder; those of `overrides`, which is the user's own word, anywhere.

    Raises:
        InputError: as `read_settings` and `parse_settings`, or a mask is missing, or there are too many.
    """
    overrides = overrides or {}
    data = _merge(read_settings(source, links=links) if os.path.lexists(source) else {}, overrides)
    parse_settings(data, str(source))
    masks = [prompt for prompt in data.get("subject") or () if prompt.get("mask") is not None]
    if len(masks) > _MOST_MASKS:
        raise InputError(f"{source}: {len(masks)} masks are more than {_MOST_MASKS}, the most; leave some out")
    for prompt in masks:
        prompt["mask"] = _keep_mask(Path(prompt["mask"]), folder, None if "subject" in overrides else source.parent)
    with new_file(folder / "settings.yaml") as path:
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def _with_whole_mask_paths(data: Mapping[str, Any], home: Path, origin: str) -> dict[str, Any]:
    """`data` with masks as absolute paths; one that leads out of `home` is refused: others may write settings."""
    home = home.resolve()
    whole = dict(data)
    whole["subject"] = [dict(prompt) for prompt in data.get("subject") or ()]
    for prompt in whole["subject"]:
        if prompt.get("mask") is not None:
            try:
                mask = (home / prompt["mask"]).resolve()
            except (OSError, ValueError, RuntimeError):
                raise InputError(f"{origin}: mask {prompt['mask']} is no name of a file; correct it") from None
            if not mask.is_relative_to(home):
                raise InputError(f"{origin}: mask {prompt['mask']} lies outside the folder {home}")
            prompt["mask"] = str(mask)
    if not whole["subject"]:
        del whole["subject"]
    return whole


def _keep_mask(mask: Path, folder: Path, home: Path | None) -> str:
    try:
        picture = read_small(mask, _LARGEST_MASK, inside=home)
    except InputError as error:
        raise InputError(f"subject mask {error}") from None
    suffix = mask.suffix.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", mask.suffix) else ".png"
    name = hashlib.sha256(picture).hexdigest()[:16] + suffix
    kept = folder / "prompts" / name
    if not kept.is_file():
        with new_file(kept) as path:
            path.write_bytes(picture)
    return f"prompts/{name}"


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        inside = merged.get(name)
        whole = name not in ("lens", "frames", "output")
        merged[name] = value if whole or not isinstance(inside, Mapping) else {**inside, **value}
    return merged


def _first_problem(error: ValidationError) -> str:
    """The problem a user should mend first, in one line."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {place!r}{_nearest(str(problem['loc'][-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    return " ".join(f"{place}: {message}".split())


def _nearest(name: str) -> str:
    known = [*VideoSettings.model_fields, *Lens.model_fields, *FrameSettings.model_fields]
    known += [*OutputSettings.model_fields, *Prompt.model_fields, "keyframes", "time", "at", "k", "ease"]
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
