"""any-to-bokeh from frames to frames, one shot after the other, in constant memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bokeh_assets.devices import pick_device
from bokeh_assets.errors import InputError
from bokeh_assets.rendering.any_to_bokeh import clip
from bokeh_assets.rendering.any_to_bokeh.frames import Shown, checked_focus, paired_up
from bokeh_assets.rendering.any_to_bokeh.geometry import Fit, from_canvas, keep_sharp, plan_fit, to_canvas
from bokeh_assets.rendering.any_to_bokeh.groups import GROUP, STEP, Group, fade, groups
from bokeh_assets.rendering.any_to_bokeh.image_encoder import load_image_encoder, place_buffers
from bokeh_assets.rendering.any_to_bokeh.loading import checkpoint_folder, load, read_config
from bokeh_assets.rendering.any_to_bokeh.speed import Graphed, compile_blocks
from bokeh_assets.rendering.any_to_bokeh.unet import BokehUNet
from bokeh_assets.rendering.any_to_bokeh.vae import BokehVAE, Features, Posterior
from bokeh_assets.rendering.base import Progress, radius_per_disparity

log = logging.getLogger(__name__)

PAIR_FROM = 13
"""Shots of fewer frames break the released pipeline, so there is nothing to be equal to."""

VAE_BATCH = 4
"""Pictures that the VAE encodes together."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame as the networks see it. All tensors are of one frame, without its dimension but for `features`."""

    shown: Shown | None
    """None for a grey frame that fills up a group."""
    picture: Posterior
    blur: Posterior
    context: Tensor
    features: Features
    k: float


class AnyToBokeh:
    """The one-step video diffusion model any-to-bokeh (arXiv:2505.21593).

    Args:
        unet, vae: the networks with their weights, on `device` or, with `low_memory`, on the CPU.
        image_encoder: `transformers.CLIPVisionModelWithProjection`.
        device: where to compute.
        half_k: tell the network the blur strength as float16 arithmetic gives it, which is what the released
            pipeline does (see `k_embedding`).
        encode_batch: frames encoded at a time.
        low_memory: for cards of 12 GB and less, the same numbers more slowly: weights wait in host memory and are
            brought in when their turn comes, what the encoder saw waits there too, and the decoder works in slices.
    """

    def __init__(
        self,
        unet: BokehUNet,
        vae: BokehVAE,
        image_encoder: nn.Module,
        *,
        device: torch.device,
        half_k: bool = True,
        encode_batch: int = 8,
        low_memory: bool = False,
    ) -> None:
        self.unet, self.vae, self.image_encoder = unet, vae, image_encoder
        self.device, self.half_k, self.low_memory = device, half_k, low_memory
        self.encode_batch = 1 if low_memory else encode_batch
        self.dtype = next(unet.parameters()).dtype
        vae.sliced = low_memory
        place_buffers(image_encoder, device)  # they stay there, also when the weights wait elsewhere
        self.compiled = False

    @classmethod
    def from_pretrained(
        cls,
        unet: Path | str,
        vae: Path | str,
        image_encoder: Path | str,
        *,
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        low_memory: bool = False,
        compile: bool = False,
        **options: Any,
    ) -> AnyToBokeh:
        """Loads the three networks from folders in diffusers' layout (`DIR/unet/config.json` or `DIR/config.json`).

        Args:
            dtype: torch.float16 (the default on CUDA), bfloat16 or float32 (the default on the CPU), or its name.
            compile: compile the networks for speed; the first seconds to minutes go into it.

        Raises:
            InputError: a folder has no checkpoint, the weights do not fit exactly, or the device is not there.
        """
        place = pick_device(device)
        kind = _dtype(dtype, place)
        home = torch.device("cpu") if low_memory else place
        parts: list[nn.Module] = []
        for folder, name, network in ((unet, "unet", BokehUNet), (vae, "vae", BokehVAE)):
            where = checkpoint_folder(folder, name)
            try:
                module = network(read_config(where))
            except (TypeError, ValueError, KeyError) as error:
                raise InputError(f"{where / 'config.json'} describes no {name} of any-to-bokeh: {error}") from error
            load(module, where, module.official, device=home, dtype=kind)
            parts.append(module)
        encoder = load_image_encoder(checkpoint_folder(image_encoder, "image_encoder"), device=home, dtype=kind)
        made = cls(parts[0], parts[1], encoder, device=place, low_memory=low_memory, **options)  # type: ignore[arg-type]
        if compile:
            made.compile()
        return made

    def compile(self) -> None:
        """Compiles the repeated blocks: a block is compiled once for each shape it meets, not once for each place.

        On CUDA the libraries' kernels for convolutions are chosen by trying them, in the whole process; which one is
        fastest may change from run to run, and the last bits of the result with it.
        """
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        compile_blocks(self.unet)
        compile_blocks(self.vae)
        self.compiled = True

    def record_graphs(self) -> None:
        """Has CUDA replay the UNet's kernels; pays where the host is slow beside the GPU, and costs memory."""
        if self.device.type == "cuda" and not self.low_memory:
            self.unet.graph = Graphed(self.unet.denoise)

    def render(
        self,
        frames: Iterable[NDArray[np.uint8]],
        disparity: Iterable[NDArray[np.float32]],
        focus: pd.DataFrame,
        *,
        height: int = 576,
        width: int = 1024,
        fit: str = "letterbox",
        pairing: str = "single",
        tail: str | None = None,
        sample_posterior: bool = False,
        seed: int = 0,
        output: str = "source",
        progress: Progress | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """The frames with the blur of a wide aperture, in order.

        `fit="stretch", pairing="paired", output="network"` gives the released pipeline's numbers (with the mean
        of the posterior instead of noise, unless asked for). Host and device memory do not depend on the length.

        Args:
            frames: uint8 RGB (H, W, 3), all of one size.
            disparity: float32 (h, w), 0 to 1, one for each frame; any size, normally the frames'.
            focus: rows in order of `frame`, 0, 1, ..., with the focus plane `zf` (a disparity), the blur strength
                `k` (0 to 32) and optionally `shot`: groups of frames never reach from one shot into the next.
            height, width: the network's picture, multiples of 64.
            fit: "letterbox" keeps the aspect (and stands the canvas upright for an upright video), "stretch" not.
            pairing: "single": one group of frames a call. "paired": two, as released, where the first frame's
                embedding of each group reaches into the other.
            tail: what fills up a short last group: "mirror", "repeat" or "grey" (as released: grey pictures and
                k = 0). By default "grey" for paired and "mirror" for single; never grey below 13 frames.
            sample_posterior: draw the latents around their mean, as released, instead of taking the mean.
            seed: of those draws; each shot starts anew with it.
            output: "source": at the source's size, with its own pixels where it is in focus, and the input, bit
                for bit, where k is 0. "network": as the network gives it, at its size.
            progress: called with the number of frames done.

        Raises:
            InputError: an option is unknown, a focus value is out of range, or numbers of frames disagree.
        """
        for value, name, known in (
            (pairing, "pairing", ("single", "paired")),
            (tail, "tail", (None, "mirror", "repeat", "grey")),
            (output, "output", ("source", "network")),
        ):
            if value not in known:
                raise InputError(f"{name} {value!r} is unknown; use {' or '.join(str(k) for k in known if k)}")
        plan_fit((height, width), height, width, fit)
        rows = checked_focus(focus)
        shown = paired_up(frames, disparity, rows)
        options = _Options(height, width, fit, pairing, tail, sample_posterior, seed, output)
        return self._render(shown, options, progress)

    def _render(
        self, shown: Iterator[Shown], options: _Options, progress: Progress | None
    ) -> Iterator[NDArray[np.uint8]]:
        done = 0
        for _, shot in groupby(shown, key=lambda s: s.shot):
            for picture in _Shot(self, options).render(shot):
                yield picture
                done += 1
                if progress is not None:
                    progress(done)

    @contextmanager
    def awake(self, module: nn.Module) -> Iterator[None]:
        """With `low_memory`, has the module's weights on the device for as long as it is entered."""
        if not self.low_memory:
            yield
            return
        parameters = list(module.parameters())
        home = [p.data for p in parameters]
        try:
            for p in parameters:
                p.data = p.data.to(self.device, non_blocking=True)
            yield
        finally:
            for p, data in zip(parameters, home, strict=True):
                p.data = data

    def encode(self, pictures: Tensor, blurs: Tensor) -> tuple[Posterior, Posterior, Features, Tensor]:
        """Latents of pictures and of their circles of confusion, the pictures' features, their embeddings.

        Args:
            pictures, blurs: float32 (N, 3, H, W), -1 to 1.
        """
        with self.awake(self.image_encoder):
            context = clip.embed(self.image_encoder, pictures)
        with self.awake(self.vae):
            picture, features, blur = self._encode(pictures, blurs)
            if not bool(torch.isfinite(picture.mean).all() & torch.isfinite(blur.mean).all()):
                if next(self.vae.encoder.parameters()).dtype == torch.float32:
                    raise InputError("any_to_bokeh's encoder gives no finite latents; are its weights damaged?")
                log.warning("the picture encoder overflows in %s; it goes on in float32, more slowly", self.dtype)
                self.vae.encoder.float()
                self.vae.quant_conv.float()
                picture, features, blur = self._encode(pictures, blurs)
        if self.low_memory:
            features = tuple(f.cpu() for f in features)
        return picture, blur, features, context

    def _encode(self, pictures: Tensor, blurs: Tensor) -> tuple[Posterior, Features, Posterior]:
        kind = next(self.vae.encoder.parameters()).dtype
        count, parts = len(pictures), []
        if self.compiled and count % VAE_BATCH:
            # Another batch size would be compiled anew, for the last frames of a shot.
            fill = torch.arange(count + VAE_BATCH - count % VAE_BATCH, device=pictures.device).clamp(max=count - 1)
            pictures, blurs = pictures[fill], blurs[fill]
        for picture, blur in zip(pictures.to(kind).split(VAE_BATCH), blurs.to(kind).split(VAE_BATCH), strict=True):
            seen, features = self.vae.encode(picture, keep=True)
            parts.append((*seen, *self.vae.encode(blur)[0], *features))
        joined = [torch.cat(same)[:count].to(self.dtype) for same in zip(*parts, strict=True)]
        mean, std, blur_mean, blur_std, *kept = joined
        return Posterior(mean, std), tuple(kept), Posterior(blur_mean, blur_std)

    def denoise(self, latents: Tensor, context: Tensor, k: Tensor) -> Tensor:
        """The UNet; see `BokehUNet.forward`."""
        with self.awake(self.unet):
            return self.unet(latents, context, k, half_k=self.half_k)

    def decode(self, latents: Tensor, features: Sequence[Features]) -> Tensor:
        """Pictures (F, 3, H, W), 0 to 1, float32, of scaled latents (F, 4, h, w)."""
        with self.awake(self.vae):
            pictures = self.vae.decode((latents / self.vae.scaling_factor).to(self.dtype), features)
        return (pictures.float() / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class _Options:
    height: int
    width: int
    fit: str
    pairing: str
    tail: str | None
    sample_posterior: bool
    seed: int
    output: str


class _Shot:
    """Renders one shot: encodes each frame once, calls the UNet on groups, fades them together, decodes by eights."""

    def __init__(self, model: AnyToBokeh, options: _Options) -> None:
        self.model, self.options = model, options
        self.generator = torch.Generator().manual_seed(options.seed)
        self.fit: Fit | None = None
        self.fade = fade().to(model.device)[:, None, None, None]

    def render(self, shot: Iterable[Shown]) -> Iterator[NDArray[np.uint8]]:
        start = list(islice(shot, PAIR_FROM))
        paired = self.options.pairing == "paired"
        tail = self.options.tail or ("grey" if paired and len(start) == PAIR_FROM else "mirror")
        first = start[0].frame.shape
        self.fit = plan_fit((first[0], first[1]), self.options.height, self.options.width, self.options.fit)
        seen = self._seen(_chain(start, shot))
        filler = self._grey() if tail == "grey" else None
        cut = groups(seen, "fill" if tail == "grey" else tail, filler)
        as_released = paired and tail == "grey"
        for frames, latents in self._chunks(cut, 2 if paired else 1, as_released):
            yield from self._pictures(frames, latents)

    def _seen(self, shot: Iterator[Shown]) -> Iterator[Seen]:
        """Encodes the frames, a few at a time."""
        while batch := list(islice(shot, self.model.encode_batch)):
            yield from self._encode(batch)

    @torch.no_grad()
    def _encode(self, batch: list[Shown]) -> list[Seen]:
        assert self.fit is not None
        device = self.model.device
        pictures, blurs = [], []
        for shown in batch:
            picture = torch.from_numpy(shown.frame).to(device).permute(2, 0, 1).float() / 255
            away = (torch.from_numpy(shown.disparity).to(device) - shown.zf).abs()[None]
            pictures.append(to_canvas(picture, self.fit) * 2 - 1)
            blurs.append((to_canvas(away, self.fit) * 2 - 1).expand(3, -1, -1))
        ks = [shown.k * self.fit.k_scale for shown in batch]
        return self._see(list(batch), torch.stack(pictures), torch.stack(blurs), ks)

    @torch.no_grad()
    def _grey(self) -> Seen:
        """What the released pipeline fills up with: zeros."""
        assert self.fit is not None
        zeros = torch.zeros(1, 3, *self.fit.canvas, device=self.model.device)
        return self._see([None], zeros, zeros, [0.0])[0]

    def _see(self, shown: Sequence[Shown | None], pictures: Tensor, blurs: Tensor, ks: list[float]) -> list[Seen]:
        picture, blur, features, context = self.model.encode(pictures, blurs)
        return [
            Seen(
                shown[i],
                Posterior(picture.mean[i], picture.std[i]),
                Posterior(blur.mean[i], blur.std[i]),
                context[i],
                tuple(f[i : i + 1] for f in features),
                ks[i],
            )
            for i in range(len(shown))
        ]

    @torch.no_grad()
    def _chunks(
        self, cut: Iterator[Group[Seen]], per_call: int, as_released: bool
    ) -> Iterator[tuple[list[Seen], Tensor]]:
        """Frames and their finished latents (scaled, float32), eight at a time.

        Every eight come with their real neighbours. A rest of four at the end is decoded with the four before it,
        whose pictures are out already: those are marked by `shown` None.
        """
        frames: list[Seen] = []
        latents: list[Tensor] = []
        older: Tensor | None = None
        while call := list(islice(cut, per_call)):
            results = self._denoise(call)
            for group, result in zip(call, results, strict=True):
                newer = result[:STEP]
                head = newer if older is None else self.fade * older + (1 - self.fade) * newer
                frames += group.frames[:STEP]
                latents += list(head)
                older = result[STEP:]
                if group.last:
                    if len(frames) == GROUP:
                        yield frames, torch.stack(latents)
                        # The released pipeline decodes the rest beside its group's own latents, not the faded ones.
                        before = newer if as_released else head
                        frames = [_unshown(f) for f in group.frames[:STEP]]
                        latents = list(before)
                    shown = [f if i < group.real else _unshown(f) for i, f in enumerate(group.frames)]
                    frames += shown[STEP:]
                    latents += list(older)
                    if group.first:
                        frames = shown
                if len(frames) == GROUP:
                    yield frames, torch.stack(latents)
                    frames, latents = [], []

    def _denoise(self, call: list[Group[Seen]]) -> Tensor:
        """Scaled latents (groups, 8, 4, h, w), float32."""
        flat = [frame for group in call for frame in group.frames]
        scale = self.model.vae.scaling_factor
        parts = [self._latents([f.picture for f in flat]), self._latents([f.blur for f in flat])]
        latents = (torch.cat(parts, dim=1) * scale).unflatten(0, (len(call), GROUP))
        k = torch.tensor([f.k for f in flat]).view(len(call), GROUP)
        context = torch.stack([f.context for f in flat])
        return self.model.denoise(latents.to(self.model.dtype), context, k).float()

    def _latents(self, posteriors: list[Posterior]) -> Tensor:
        mean = torch.stack([p.mean for p in posteriors]).float()
        if not self.options.sample_posterior:
            return mean
        return mean + torch.stack([p.std for p in posteriors]).float() * self.draw(mean)

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like`; drawn on the CPU, so that it is the same on any device."""
        return torch.randn(like.shape, generator=self.generator).to(like)

    @torch.no_grad()
    def _pictures(self, frames: list[Seen], latents: Tensor) -> Iterator[NDArray[np.uint8]]:
        pictures = self.model.decode(latents, [f.features for f in frames])
        if not bool(torch.isfinite(pictures).all()):
            raise InputError(f"any_to_bokeh overflows in {self.model.dtype} on this video; use dtype bfloat16")
        for seen, picture in zip(frames, pictures, strict=True):
            if seen.shown is not None:
                yield self._finished(seen.shown, picture)

    def _finished(self, shown: Shown, picture: Tensor) -> NDArray[np.uint8]:
        assert self.fit is not None
        if self.options.output == "source":
            if shown.k == 0:
                return shown.frame
            device = self.model.device
            source = torch.from_numpy(shown.frame).to(device).permute(2, 0, 1).float() / 255
            away = (torch.from_numpy(shown.disparity).to(device) - shown.zf).abs()[None, None]
            if away.shape[2:] != source.shape[1:]:
                away = nn.functional.interpolate(away, size=source.shape[1:], mode="bilinear", align_corners=False)
            radius = radius_per_disparity(shown.k, source.shape[2]) * away[0, 0]
            picture = keep_sharp(from_canvas(picture, self.fit), source, radius, self.fit)
        return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def _unshown(seen: Seen) -> Seen:
    return Seen(None, seen.picture, seen.blur, seen.context, seen.features, seen.k)


def _chain(start: list[Shown], rest: Iterable[Shown]) -> Iterator[Shown]:
    yield from start
    yield from rest


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"dtype {dtype} is not one of float16, bfloat16, float32")
    return found
