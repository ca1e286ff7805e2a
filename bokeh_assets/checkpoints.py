"""The official model files: what they are called, where they come from, what may be done with them.

Nothing here needs PyTorch at import; `verify` and `load_weights` import it when called.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bokeh_assets.downloads import Progress, fetch, recorded, sha256_of
from bokeh_assets.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "VerifyResult",
    "checkpoint_dir",
    "download",
    "find",
    "load_weights",
    "verify",
]

APACHE = "Apache-2.0"
CC_BY_NC = "CC-BY-NC-4.0"
SVD = "Stability AI Community License"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """One model's official weights.

    Attributes:
        path: file or folder under `checkpoint_dir()`.
        files: (path under `path`, address) of each file to fetch; the path is empty where `path` is the file.
        parameters: how many numbers the file holds.
        bytes_each: least bytes a number takes in the file (2 where half precision is possible).
        commercial: may results be used commercially.
        shapes: "module:function" giving every expected tensor's shape for `model`.
        page: where a person reads about it, accepts terms or downloads by hand.
        archive: address of an archive that holds this and others, where there is no file of its own.
        gated: the host asks for an account that accepted its terms (token in HF_TOKEN).
    """

    name: str
    kind: Literal["segmentation", "depth", "rendering"]
    path: str
    files: tuple[tuple[str, str], ...]
    parameters: int
    licence: str
    commercial: bool
    shapes: str
    model: str
    page: str
    bytes_each: int = 4
    archive: str | None = None
    gated: bool = False

    @property
    def is_folder(self) -> bool:
        return self.archive is not None or bool(self.files[0][0])

    @property
    def url(self) -> str:
        """The (first) address."""
        return self.archive or self.files[0][1]

    @property
    def size(self) -> int:
        """Bytes on disk, about: what the numbers take, without the few kilobytes of names around them."""
        return self.parameters * self.bytes_each

    @property
    def plausible_sizes(self) -> tuple[int, int]:
        """Least and greatest bytes of the weights."""
        return self.parameters * self.bytes_each, int(self.parameters * 4 * 1.02) + (8 << 20)

    @property
    def how_to_get(self) -> str:
        """One sentence for error messages."""
        accept = "" if self.commercial else " --accept-license"
        return f"run: bokeh-assets checkpoints download {self.name}{accept}"


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found; `problem` is None where all is well."""

    name: str
    path: Path
    problem: str | None = None
    sha256: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def _sam2(size: str, parameters: int) -> Checkpoint:
    name = f"sam2.1_hiera_{size}"
    return Checkpoint(
        name=name,
        kind="segmentation",
        path=f"{name}.pt",
        files=(("", f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{name}.pt"),),
        parameters=parameters,
        licence=APACHE,
        commercial=True,
        shapes="bokeh_assets.segmentation.sam2:state_shapes",
        model=size,
        page="https://github.com/facebookresearch/sam2#model-checkpoints",
    )


def _vda(prefix: str, size: str, long_size: str, parameters: int) -> Checkpoint:
    name = f"{prefix}video_depth_anything_{size}"
    home = (
        "https://huggingface.co/depth-anything/" + ("Metric-" if prefix else "") + f"Video-Depth-Anything-{long_size}"
    )
    free = size == "vits"
    return Checkpoint(
        name=name,
        kind="depth",
        path=f"{name}.pth",
        files=(("", f"{home}/resolve/main/{name}.pth"),),
        parameters=parameters,
        licence=APACHE if free else CC_BY_NC,
        commercial=free,
        shapes="bokeh_assets.depth.video_depth_anything:state_shapes",
        model=size,
        page=home,
    )


_A2B_PAGE = "https://drive.google.com/file/d/11UQcR7-GJtobPNKlF3f-q97xYX9pyEXb/view"
_A2B_ARCHIVE = (
    "https://drive.usercontent.google.com/download?id=11UQcR7-GJtobPNKlF3f-q97xYX9pyEXb&export=download&confirm=t"
)


def _any_to_bokeh(part: str, path: str, parameters: int) -> Checkpoint:
    return Checkpoint(
        name=f"any_to_bokeh_{part}",
        kind="rendering",
        path=path,
        files=(),
        parameters=parameters,
        bytes_each=2,
        licence=CC_BY_NC,
        commercial=False,
        shapes="bokeh_assets.rendering.any_to_bokeh:state_shapes",
        model=part,
        page=_A2B_PAGE,
        archive=_A2B_ARCHIVE,
    )


_SVD_PAGE = "https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt"

_ALL = (
    _sam2("tiny", 38_962_754),
    _sam2("small", 46_060_610),
    _sam2("base_plus", 80_850_434),
    _sam2("large", 224_446_898),
    _vda("", "vits", "Small", 29_080_193),
    _vda("", "vitb", "Base", 114_531_521),
    _vda("", "vitl", "Large", 384_554_177),
    _vda("metric_", "vits", "Small", 29_080_193),
    _vda("metric_", "vitb", "Base", 114_531_521),
    _vda("metric_", "vitl", "Large", 384_554_177),
    _any_to_bokeh("unet", "unet/unet", 1_876_296_074),
    _any_to_bokeh("vae", "vae", 98_234_367),
    Checkpoint(
        name="svd_xt_image_encoder",
        kind="rendering",
        path="svd_xt/image_encoder",
        files=(
            ("config.json", f"{_SVD_PAGE}/resolve/main/image_encoder/config.json"),
            ("model.fp16.safetensors", f"{_SVD_PAGE}/resolve/main/image_encoder/model.fp16.safetensors"),
        ),
        parameters=632_076_800,
        bytes_each=2,
        licence=SVD,
        commercial=False,
        shapes="bokeh_assets.rendering.any_to_bokeh:state_shapes",
        model="image_encoder",
        page=_SVD_PAGE,
        gated=True,
    ),
)

CHECKPOINTS: dict[str, Checkpoint] = {c.name: c for c in _ALL}
"""Every official file by name."""


def checkpoint_dir() -> Path:
    """Where the files lie: `BOKEH_CHECKPOINTS_DIR`, else `./checkpoints`."""
    return Path(os.environ.get("BOKEH_CHECKPOINTS_DIR") or "checkpoints")


def known(name: str) -> Checkpoint:
    """The registry's entry.

    Raises:
        InputError: there is no checkpoint of that name.
    """
    if name not in CHECKPOINTS:
        raise InputError(f"unknown checkpoint {name!r}; known are {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[name]


def find(name: str) -> Path | None:
    """The file or folder of a checkpoint, or None where it is not there or cannot be it by its size.

    Raises:
        InputError: there is no checkpoint of that name.
    """
    checkpoint = known(name)
    path = checkpoint_dir() / checkpoint.path
    return path if _size_problem(checkpoint, path) is None else None


def download(name: str, *, accept_license: bool = False, progress: Progress | None = None) -> Path:
    """Fetches a checkpoint and returns where it lies; does nothing where it is already there.

    Downloads resume, are checked against the size (and the SHA-256 where the host states one) and appear whole
    or not at all. The SHA-256 is remembered in `<file>.json` and checked by `verify`.

    Args:
        accept_license: needed for files that are not free for commercial use.
        progress: called with bytes done and bytes in all.

    Raises:
        InputError: unknown name, licence not accepted, no network, refused by the server, no space.
    """
    checkpoint = known(name)
    if not checkpoint.commercial and not accept_license:
        raise InputError(
            f"{name} is under {checkpoint.licence}, not for commercial use (see {checkpoint.page}); "
            "add --accept-license to download it"
        )
    here = find(name)
    if here is not None:
        return here
    folder = checkpoint_dir()
    if checkpoint.archive is not None:
        from bokeh_assets import checkpoint_archive

        checkpoint_archive.install(
            checkpoint.archive,
            folder,
            {c.path: c.path.rpartition("/")[2] for c in CHECKPOINTS.values() if c.archive == checkpoint.archive},
            page=checkpoint.page,
            progress=progress,
        )
    else:
        headers, hint = _access(checkpoint)
        for inside, url in checkpoint.files:
            weights = inside != "config.json"
            target = folder / checkpoint.path / inside if inside else folder / checkpoint.path
            if target.is_file() and recorded(target) is not None:
                continue
            sizes = checkpoint.plausible_sizes if weights else (2, 1 << 20)
            fetch(url, target, sizes=sizes, headers=headers, help_text=hint, progress=progress if weights else None)
    path = folder / checkpoint.path
    problem = _size_problem(checkpoint, path)
    if problem is not None:
        raise InputError(f"{name}: {problem}")
    return path


def verify(name: str) -> VerifyResult:
    """Loads a checkpoint strictly and says what is wrong with it, if anything.

    Checks the size, the SHA-256 remembered at download, that it holds tensors and nothing executable, that
    names and shapes are exactly the model's, and that every number is finite.

    Raises:
        InputError: there is no checkpoint of that name.
    """
    checkpoint = known(name)
    path = checkpoint_dir() / checkpoint.path
    problem = _size_problem(checkpoint, path)
    if problem is not None:
        return VerifyResult(name, path, problem)
    digests = []
    try:
        tensors: dict[str, torch.Tensor] = {}
        for file in _weight_files(path):
            digests.append(sha256_of(file))
            record = recorded(file)
            if record is not None and record.sha256 != digests[-1]:
                return VerifyResult(name, path, f"{file.name} is not what was downloaded (its SHA-256 changed)")
            tensors |= load_weights(file)
        problem = _tensor_problem(tensors, _expected(checkpoint))
    except InputError as error:
        problem = str(error)
    return VerifyResult(name, path, problem, digests[0] if len(digests) == 1 else None)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pt, .pth, .bin or .safetensors file, on the CPU and memory-mapped where possible.

    Code in a pickle is never run. A dict wrapped as {"model": …} (SAM 2's files) or {"state_dict": …} is unwrapped.

    Raises:
        InputError: the file is missing, truncated, not a checkpoint, or holds more than tensors.
    """
    import pickle

    import torch

    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            data: Any = load_file(path)
        else:
            try:
                data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                data = torch.load(path, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise InputError(
                f"{path} holds more than weights (code that would run when loaded) and was refused; "
                "delete it and download the official file"
            ) from error
        raise InputError(f"{path} is not a PyTorch checkpoint; download the official file") from error
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors: pip install 'bokeh_assets[any-to-bokeh]'") from error
    except Exception as error:  # torch and safetensors raise RuntimeError, EOFError, OSError, SafetensorError …
        raise InputError(
            f"{path} is truncated or not a checkpoint ({_first_line(error)}); download it again"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(wrapper), dict):
            data = data[wrapper]
    if not isinstance(data, dict) or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise InputError(f"{path} holds no dictionary of tensors; download the official file")
    return dict(data)


def _expected(checkpoint: Checkpoint) -> Shapes:
    module, _, function = checkpoint.shapes.partition(":")
    try:
        shapes: Shapes = getattr(importlib.import_module(module), function)(checkpoint.model)
    except ImportError as error:
        raise InputError(f"{checkpoint.name} cannot be checked without {error.name}; install it") from error
    return shapes


def _tensor_problem(tensors: dict[str, torch.Tensor], expected: Shapes) -> str | None:
    import torch

    missing = sorted(set(expected) - set(tensors))
    # Older files of CLIP carry a table of 0, 1, 2, ... that is no weight.
    foreign = sorted(key for key in set(tensors) - set(expected) if not key.endswith(".position_ids"))
    if missing or foreign:
        parts = [
            f"{len(names)} tensors {what} (such as {names[0]})"
            for names, what in ((missing, "are missing"), (foreign, "do not belong to the model"))
            if names
        ]
        return f"not this model's weights: {' and '.join(parts)}; download the official file"
    for key in expected:
        tensor = tensors[key]
        if tuple(tensor.shape) != tuple(expected[key]):
            return f"{key} has shape {tuple(tensor.shape)}, not {tuple(expected[key])}; download the official file"
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{key} holds numbers that are not finite; download it again"
    return None


def _size_problem(checkpoint: Checkpoint, path: Path) -> str | None:
    if not path.exists():
        return f"{path} is missing; {checkpoint.how_to_get}"
    if checkpoint.is_folder:
        if not (path / "config.json").is_file():
            return f"{path} has no config.json; {checkpoint.how_to_get}"
    elif not path.is_file():
        return f"{path} is not a file; {checkpoint.how_to_get}"
    files = _weight_files(path)
    size = sum(file.stat().st_size for file in files)
    if len(files) == 1:
        record = recorded(files[0])
        if record is not None and record.size != size:
            return f"{files[0]} has {size} bytes, {record.size} were downloaded; {checkpoint.how_to_get}"
    least, most = checkpoint.plausible_sizes
    if not least <= size <= most:
        return f"{path} holds {size} bytes of weights, not {least} to {most}; {checkpoint.how_to_get}"
    return None


def _weight_files(path: Path) -> list[Path]:
    """The file itself, or a folder's weights: safetensors before .bin, one precision only."""
    if path.is_file():
        return [path]
    for pattern in ("*.fp16.safetensors", "*.safetensors", "*.bin", "*.pth"):
        found = sorted(path.glob(pattern))
        if pattern == "*.safetensors" and not found:
            continue
        if found:
            return found
    return []


def _access(checkpoint: Checkpoint) -> tuple[dict[str, str], str]:
    """Request headers and a hint for errors. The token goes into the request only, never into a message."""
    if not checkpoint.gated:
        return {}, f"See {checkpoint.page}"
    token = os.environ.get("HF_TOKEN", "").strip()
    hint = f"Accept the terms at {checkpoint.page} with your account and set HF_TOKEN to its access token"
    return ({"Authorization": f"Bearer {token}"} if token else {}), hint


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
