"""any-to-bokeh: one-step video diffusion that paints the blur of a wide aperture (arXiv:2505.21593).

Our own implementation; Stable Video Diffusion's building blocks come from `diffusers`, which the extra
`any-to-bokeh` installs. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
    from bokeh_assets.rendering.any_to_bokeh.renderer import AnyToBokehRenderer

__all__ = ["AnyToBokeh", "AnyToBokehRenderer", "require_extra", "state_shapes"]

EXTRA = ("diffusers", "transformers", "safetensors")


def require_extra() -> None:
    """Raises InputError, saying what to install, unless the extra `any-to-bokeh` is installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the renderer any_to_bokeh needs {', '.join(missing)}; "
            "install with: pip install 'bokeh_assets[any-to-bokeh]'"
        )


def state_shapes(part: str, folder: Path | None = None) -> dict[str, tuple[int, ...]]:
    """Shape by key of what a checkpoint must hold.

    Args:
        part: "unet", "vae" or "image_encoder".
        folder: a checkpoint folder whose config.json gives the sizes; without it, the official ones.

    Raises:
        InputError: the part is unknown, the extra is missing, or config.json describes no such network.
    """
    require_extra()
    from bokeh_assets.rendering.any_to_bokeh.loading import official_shapes

    return official_shapes(part, folder)


def __getattr__(name: str) -> Any:
    if name == "AnyToBokehRenderer":
        from bokeh_assets.rendering.any_to_bokeh.renderer import AnyToBokehRenderer

        return AnyToBokehRenderer
    if name == "AnyToBokeh":
        require_extra()
        from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh

        return AnyToBokeh
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
