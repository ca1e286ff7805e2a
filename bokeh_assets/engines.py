"""Which engine makes an output: the one named, or for `auto` the best whose checkpoint and device are there.

Nothing here runs a model; a `Choice` says what was picked and why, and builds it when asked. Used by the assets,
by `bokeh-assets render` and by `bokeh-assets doctor`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh_assets import checkpoints
from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    from bokeh_assets.depth.base import DepthEstimator
    from bokeh_assets.rendering.base import Renderer
    from bokeh_assets.segmentation.base import Segmenter
    from bokeh_assets.settings import VideoSettings

OWN_LICENCE = "Apache-2.0 (weight-free, part of bokeh_assets)"

SAM2 = ("sam2.1_hiera_large", "sam2.1_hiera_base_plus", "sam2.1_hiera_small", "sam2.1_hiera_tiny")
VIDEO_DEPTH_ANYTHING = ("vitl", "vitb", "vits")
ANY_TO_BOKEH_PARTS = ("any_to_bokeh_unet", "any_to_bokeh_vae", "svd_xt_image_encoder")


@dataclass(frozen=True)
class Choice:
    """An engine that can run here, and why it is this one."""

    name: str
    why: str
    device: str
    licence: str
    build: Callable[[], Any] = field(repr=False, compare=False)
    checkpoints: tuple[Path, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What metadata and records say of the engine."""
        return {
            "engine": self.name,
            "engine chosen because": self.why,
            "device": self.device,
            "licence": self.licence,
            "checkpoint": ", ".join(str(path) for path in self.checkpoints) or "none",
        }


class CannotRun(InputError):
    """An engine cannot run here; the message says what is missing and how to get it."""


def device_name(wanted: str) -> str:
    """Name of the device that `pick_device` gives for `wanted`; raises CannotRun where it gives none."""
    try:
        return str(pick_device(wanted))
    except InputError as problem:
        raise CannotRun(str(problem)) from None


def pick_segmenter(settings: VideoSettings, device: str = "auto") -> Choice:
    """The segmenter for a video: SAM 2.1 where a checkpoint is, else the classical one. Raises CannotRun."""
    place = device_name(device)
    # Three points of accuracy lie between tiny and large; on a CPU only the small ones are bearable.
    order = SAM2 if place != "cpu" else tuple(reversed(SAM2))
    candidates = [functools.partial(_sam2, name, place) for name in order]
    return _pick(settings.segmenter, candidates, order, _classical)


def pick_depth(settings: VideoSettings, device: str = "auto") -> Choice:
    """The depth engine for a video: Video-Depth-Anything where a checkpoint is, else planes. Raises CannotRun."""
    place = device_name(device)
    order = VIDEO_DEPTH_ANYTHING if place != "cpu" else tuple(reversed(VIDEO_DEPTH_ANYTHING))
    commercial = settings.commercial_only and settings.depth == "auto"
    candidates = [functools.partial(_video_depth_anything, name, place, commercial) for name in order]
    return _pick(settings.depth, candidates, order, _planes)


def pick_renderer(settings: VideoSettings, device: str = "auto") -> Choice:
    """The renderer for a video: any-to-bokeh with CUDA and its checkpoints, else thin lens. Raises CannotRun."""
    place = device_name(device)
    candidate = functools.partial(_any_to_bokeh, settings, place)
    return _pick(settings.renderer, [candidate], ("any_to_bokeh",), functools.partial(_thin_lens, settings, place))


def _pick(
    wanted: str,
    candidates: Sequence[Callable[[str], Choice]],
    names: tuple[str, ...],
    fallback: Callable[[str], Choice],
) -> Choice:
    if wanted in names:
        return candidates[names.index(wanted)]("named in the settings")
    if wanted != "auto":
        return fallback("named in the settings")
    refusals: list[str] = []
    for candidate in candidates:
        try:
            return candidate("auto: the best that can run here" + "".join(f"; {r}" for r in refusals[:1]))
        except CannotRun as refusal:
            refusals.append(str(refusal))
    # The first refusal is that of the engine a user would want next; the others say the same of its siblings.
    return fallback(f"auto: {refusals[0]}")


def _checkpoint(name: str, engine: str, commercial_only: bool = False) -> tuple[Path, str]:
    entry = checkpoints.CHECKPOINTS[name]
    if commercial_only and not entry.commercial:
        raise CannotRun(f"{engine} is passed over: commercial_only is set and its weights are {entry.licence}")
    path = checkpoints.find(name)
    if path is None:
        accept = "" if entry.commercial else " --accept-license"
        raise CannotRun(
            f"{engine} needs the checkpoint {name}, which is not in {checkpoints.checkpoint_dir()}: "
            f"run `bokeh-assets checkpoints download {name}{accept}`"
        )
    return path, entry.licence


def _sam2(name: str, device: str, why: str) -> Choice:
    path, licence = _checkpoint(name, name)

    def build() -> Segmenter:
        from bokeh_assets.segmentation.sam2 import Sam2Segmenter

        # 8 pixels of the 256-pixel mask is what upstream fills where its CUDA extension was built.
        return Sam2Segmenter(path, model=name.removeprefix("sam2.1_hiera_"), device=device, hole_area=8)

    return Choice(name, why, device, licence, build, (path,))


def _classical(why: str) -> Choice:
    def build() -> Segmenter:
        from bokeh_assets.segmentation.classical import ClassicalSegmenter

        return ClassicalSegmenter()

    return Choice("classical", why, "cpu", OWN_LICENCE, build)


def _video_depth_anything(encoder: str, device: str, commercial_only: bool, why: str) -> Choice:
    path, licence = _checkpoint(f"video_depth_anything_{encoder}", encoder, commercial_only)

    def build() -> DepthEstimator:
        from bokeh_assets.depth.video_depth_anything import VideoDepthAnythingEstimator

        return VideoDepthAnythingEstimator(path, device=device)

    return Choice(encoder, why, device, licence, build, (path,))


def _planes(why: str) -> Choice:
    def build() -> DepthEstimator:
        from bokeh_assets.depth.planes import PlanesEstimator

        return PlanesEstimator()

    return Choice("planes", why, "cpu", OWN_LICENCE, build)


def _any_to_bokeh(settings: VideoSettings, device: str, why: str) -> Choice:
    named = settings.renderer == "any_to_bokeh"
    if device == "cpu" and not named:
        raise CannotRun("any_to_bokeh needs an NVIDIA GPU, and torch sees none here")
    if settings.lens != type(settings.lens)():
        raise CannotRun("any_to_bokeh has no lens options: leave `lens` out or use renderer: thin_lens")
    missing = [name for name in ("diffusers", "transformers") if find_spec(name) is None]
    problems = [f"the packages {' and '.join(missing)} (pip install 'bokeh_assets[any-to-bokeh]')"] if missing else []
    if device == "cpu":
        problems.append("an NVIDIA GPU (torch sees none here)")
    parts: list[tuple[Path, str]] = []
    for name in ANY_TO_BOKEH_PARTS:
        try:
            parts.append(_checkpoint(name, "any_to_bokeh", settings.commercial_only and not named))
        except CannotRun as refusal:
            if settings.commercial_only and not named:
                raise
            problems.append(str(refusal).removeprefix("any_to_bokeh needs "))
    if problems:
        raise CannotRun(f"any_to_bokeh needs {'; '.join(problems)}; or use renderer: thin_lens")
    unet, vae, image_encoder = (path for path, _ in parts)

    def build() -> Renderer:
        from bokeh_assets.rendering.any_to_bokeh import AnyToBokehRenderer

        return AnyToBokehRenderer(unet=unet, vae=vae, image_encoder=image_encoder, device=device)

    licence = ", ".join(dict.fromkeys(licence for _, licence in parts))
    return Choice("any_to_bokeh", why, device, licence, build, (unet, vae, image_encoder))


def _thin_lens(settings: VideoSettings, device: str, why: str) -> Choice:
    def build() -> Renderer:
        from bokeh_assets.rendering.thin_lens import ThinLensRenderer

        return ThinLensRenderer(lens=settings.lens, device=device)

    return Choice("thin_lens", why, device, OWN_LICENCE, build)
