"""What this machine can run, and what is missing: what `bokeh-assets doctor` prints."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from bokeh_assets import checkpoints, engines
from bokeh_assets.errors import InputError
from bokeh_assets.media.confined import bounds
from bokeh_assets.settings import VideoSettings
from bokeh_assets.store import VideoStore

_PACKAGES = ("dagster", "torch", "torchvision", "sam2", "av", "opencv-python", "diffusers", "transformers")


def examine() -> Iterator[str]:
    """The report, line by line."""
    yield f"python {platform.python_version()}, {os.cpu_count()} CPUs"
    yield _gpu()
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} missing (pip install 'bokeh_assets[any-to-bokeh]')")
    yield "packages: " + ", ".join(found)
    store = VideoStore()
    space = shutil.disk_usage(next(p for p in (store.root, *store.root.parents) if p.exists())).free
    yield f"store: {store.root}, {space / 1e9:.1f} GB free"
    held = bounds()
    loose = [what for what in ("memory", "time", "files", "network") if what not in held]
    yield f"uploads are decoded in a process bound in {', '.join(held)}" + (
        f"; this system cannot bind it in {', '.join(loose)}" if loose else ""
    )
    here = [name for name in checkpoints.CHECKPOINTS if checkpoints.find(name)]
    yield f"checkpoints in {checkpoints.checkpoint_dir().absolute()}: {', '.join(here) or 'none'}"

    settings = VideoSettings()
    pickers: dict[str, Callable[[VideoSettings], engines.Choice]] = {
        "segmenter": engines.pick_segmenter,
        "depth": engines.pick_depth,
        "renderer": engines.pick_renderer,
    }
    for kind, pick in pickers.items():
        choice = pick(settings)
        yield f"{kind}: auto is {choice.name} on {choice.device}, {choice.licence}"
        for name in VideoSettings.model_fields[kind].annotation.__args__:  # type: ignore[union-attr]
            if name == "auto":
                continue
            try:
                runs = pick(settings.model_copy(update={kind: name}))
                yield f"  {name}: can run on {runs.device}"
            except InputError as problem:
                yield f"  {name}: {problem}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "GPU: none that torch can use; the weight-free engines run on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"GPU: {', '.join(names)} (CUDA {torch.version.cuda})"
