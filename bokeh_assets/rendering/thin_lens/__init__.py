"""The thin lens: depth of field computed from one sharp picture and its disparity, in linear light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bokeh_assets.rendering.thin_lens.renderer import ThinLensRenderer

__all__ = ["ThinLensRenderer"]


def __getattr__(name: str) -> Any:
    # The engine brings torch and numba; whoever only lists renderers shall not pay for them.
    if name == "ThinLensRenderer":
        from bokeh_assets.rendering.thin_lens.renderer import ThinLensRenderer

        return ThinLensRenderer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
