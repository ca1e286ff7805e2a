"""any-to-bokeh: one-step video diffusion that paints the blur of a wide aperture (arXiv:2505.21593).

Our own implementation; Stable Video Diffusion's building blocks come from `diffusers`, which the extra
`any-to-bokeh` installs. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh
    from bokeh_assets.rendering.any_to_bokeh.renderer import AnyToBokehRenderer

__all__ = ["AnyToBokeh", "AnyToBokehRenderer", "require_extra"]

EXTRA = ("diffusers", "transformers", "safetensors")


def require_extra() -> None:
    """Raises InputError, saying what to install, unless the extra `any-to-bokeh` is installed."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the renderer any_to_bokeh needs {', '.join(missing)}; "
            "install with: pip install 'bokeh_assets[any-to-bokeh]'"
        )


def __getattr__(name: str) -> Any:
    if name == "AnyToBokehRenderer":
        from bokeh_assets.rendering.any_to_bokeh.renderer import AnyToBokehRenderer

        return AnyToBokehRenderer
    if name == "AnyToBokeh":
        require_extra()
        from bokeh_assets.rendering.any_to_bokeh.pipeline import AnyToBokeh

        return AnyToBokeh
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
