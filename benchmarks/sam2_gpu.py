"""SAM 2.1 on CUDA: ours beside the predictor of the package `sam2`, in one run.

    python benchmarks/sam2_gpu.py --out sam2_gpu.json [--sizes tiny large] [--frames 200] [--long 2000]

Seeded random weights (speed does not depend on them), a synthetic clip of 960x540, one object, a box on frame 0.
Both read the same folder of JPEGs where frame supply is counted. Upstream runs as it advises: bfloat16 autocast,
eager. Ours runs as the platform runs it. Memory is the peak reserved on the GPU and the process's peak resident size.

Masks are compared on the seeded weights, whose logits crowd round zero, and (`--tuned-sizes`) on the same weights after
a minute of training on the synthetic clip, which makes them decided as a real checkpoint's are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets.segmentation.sam2 import Sam2Segmenter
from bokeh_assets.segmentation.sam2.encoder import Encoder
from bokeh_assets.segmentation.sam2.model import IMAGE_SIZE, build
from bokeh_assets.segmentation.sam2.pictures import Resizer
from bokeh_assets.segmentation.sam2.tracker import Memories, Tracker
from bokeh_assets_tests.segmentation.sam2_upstream import Upstream, seeded_checkpoint

HEIGHT, WIDTH = 540, 960
BOX = Prompt(frame=0, box=(150.0, 100.0, 420.0, 400.0))


def clip(count: int) -> list[np.ndarray]:
    """A textured ellipse that drifts over a drifting texture."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT + 200, WIDTH + 200, 3), dtype=np.uint8), (0, 0), 3)
    wide = cv2.normalize(wide, None, 0, 160, cv2.NORM_MINMAX)
    skin = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 6)
    skin = cv2.normalize(skin, None, 90, 255, cv2.NORM_MINMAX)
    frames = []
    for i in range(count):
        x, y = int(100 + 90 * np.sin(i / 40)), int(100 + 60 * np.cos(i / 30))
        frame = wide[y : y + HEIGHT, x : x + WIDTH].copy()
        inside = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(inside, (285 + i % 300, 250), (110, 140), i % 360, 0, 360, 255, -1)
        frame[inside > 0] = skin[inside > 0]
        frames.append(frame)
    return frames


class Watch:
    """Peak resident size of this process and peak GPU memory reserved, while open."""

    def __enter__(self) -> Watch:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._process = psutil.Process()
        self.host = self._process.memory_info().rss
        self._open = True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def _look(self) -> None:
        while self._open:
            self.host = max(self.host, self._process.memory_info().rss)
            time.sleep(0.05)

    def __exit__(self, *exception: object) -> None:
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start
        self._open = False
        self._thread.join()
        self.gpu = torch.cuda.max_memory_reserved()

    def figures(self) -> dict[str, float]:
        return {"host_gb": round(self.host / 1e9, 3), "gpu_gb": round(self.gpu / 1e9, 3)}


def drain(segmenter: Sam2Segmenter, frames: Any, count: int) -> dict[str, Any]:
    """Runs the segmenter; frames per second of all, and from the 41st frame on."""
    with Watch() as watch:
        late = None
        for i, _ in enumerate(segmenter.segment(frames, [BOX])):
            if i == 40:
                late = time.perf_counter()
        assert late is not None
        steady = (count - 41) / (time.perf_counter() - late)
    return {"fps": round(count / watch.seconds, 1), "steady_fps": round(steady, 1), **watch.figures()}


def upstream_run(upstream: Upstream, folder: Path, count: int) -> dict[str, Any]:
    """The predictor as its notebooks use it, on a folder of JPEGs."""
    predictor = upstream.predictor
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        with Watch() as watch:
            state = predictor.init_state(str(folder))
            predictor.add_new_points_or_box(state, 0, 0, box=np.array(BOX.box, np.float32))
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _, _, logits in predictor.propagate_in_video(state):
                (logits[0, 0] > 0).cpu().numpy()
            propagating = time.perf_counter() - start
        result = {
            "fps": round(count / watch.seconds, 1),
            "propagating_fps": round(count / propagating, 1),
            **watch.figures(),
        }
    return result


def parts(segmenter: Sam2Segmenter, frames: list[np.ndarray]) -> dict[str, float]:
    """Milliseconds per frame of the encoder alone, by batch, and of tracking alone, by splits of attention."""
    net, half = segmenter.network, torch.bfloat16
    result: dict[str, float] = {}
    with torch.inference_mode(), torch.autocast("cuda", half, cache_enabled=False):
        for batch in (1, 2, 4, 8):
            encoder = Encoder(net, HEIGHT, WIDTH, batch=batch, graphs=True, half=half)
            for rounds in (16, 64):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in encoder.run(enumerate(frames[i % len(frames)] for i in range(rounds))):
                    pass
                torch.cuda.synchronize()
            result[f"encoder_batch_{batch}_ms"] = round((time.perf_counter() - start) / rounds * 1e3, 2)
            if batch == 1:
                features, position = encoder.one(frames[0])
            del encoder
        for graphs, splits in ((False, 1), (True, 1), (True, 2), (True, 4), (True, 8)):
            tracker = Tracker(net, position, 1000, graphs=graphs, splits=splits)
            memories = Memories()
            box = torch.tensor([[[160.0, 190.0], [450.0, 760.0]]], device="cuda")
            memories.prompted[0] = tracker.prompt(features, (box, torch.tensor([[2, 3]], device="cuda")))
            for t in range(1, 101):
                if t == 31:
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                memories.keep(t, tracker.track(features, memories, t), 15)
            torch.cuda.synchronize()
            name = f"track_{'graph' if graphs else 'eager'}_splits_{splits}_ms"
            result[name] = round((time.perf_counter() - start) / 70 * 1e3, 2)
            del tracker
    return result


def agreement(checkpoint: Path, size: str, frames: list[np.ndarray]) -> dict[str, float]:
    """Share of equal pixels: float32 both, then bfloat16 both, and each bfloat16 with upstream's float32."""
    prompts = [BOX, Prompt(frame=3, points=((300.0, 240.0), (800.0, 100.0)), labels=(1, 0))]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    upstream = Upstream(checkpoint, size, device="cuda")
    exact = upstream.masks(frames, prompts)
    with torch.autocast("cuda", torch.bfloat16):
        rounded = upstream.masks(frames, prompts)
    del upstream
    ours = {}
    for precision in ("full", "half"):
        segmenter = Sam2Segmenter(checkpoint, size, "cuda", precision=precision)
        ours[precision] = np.stack([m > 0.5 for m in segmenter.segment(frames, prompts)])
        del segmenter
    torch.cuda.empty_cache()
    return {
        "float32": float((ours["full"] == exact).mean()),
        "float32_worst_frame": float((ours["full"] == exact).mean(axis=(1, 2)).min()),
        "bfloat16": float((ours["half"] == rounded).mean()),
        "bfloat16_ours_to_float32": float((ours["half"] == exact).mean()),
        "bfloat16_upstream_to_float32": float((rounded == exact).mean()),
        "subject_share": float(exact.mean()),
    }


def subject(number: int) -> np.ndarray:
    """The ellipse of frame `number` of `clip`, float32 0 or 1."""
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(inside, (285 + number % 300, 250), (110, 140), number % 360, 0, 360, 255, -1)
    return (inside > 0).astype(np.float32)


def tuned(checkpoint: Path, size: str, frames: list[np.ndarray], steps: int = 100, length: int = 3) -> Path:
    """The checkpoint after `steps` of training: short stretches of the clip, a box on the first frame of each."""
    net = build(size, IMAGE_SIZE).cuda()
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    net.eval().requires_grad_(True)
    resize = Resizer(HEIGHT, WIDTH, IMAGE_SIZE, torch.device("cuda"))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, weight_decay=0)
    rng = np.random.default_rng(0)
    scale = IMAGE_SIZE / np.array([WIDTH, HEIGHT], np.float32)
    for _ in range(steps):
        start = int(rng.integers(0, len(frames) - length))
        loss = torch.zeros((), device="cuda")
        outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        for i in range(length):
            true = subject(start + i)
            points = None
            if i == 0:
                y, x = np.nonzero(true)
                box = np.array([[x.min(), y.min()], [x.max(), y.max()]], np.float32) * scale
                labels = torch.tensor([[2, 3]], dtype=torch.int32, device="cuda")
                points = {"point_coords": torch.from_numpy(box)[None].cuda(), "point_labels": labels}
            with torch.autocast("cuda", torch.bfloat16):
                seen = net.forward_image(resize(torch.from_numpy(frames[start + i])[None].cuda()))
                out = net.track_step(
                    frame_idx=i,
                    is_init_cond_frame=i == 0,
                    current_vision_feats=[x.flatten(2).permute(2, 0, 1) for x in seen["backbone_fpn"]],
                    current_vision_pos_embeds=[x.flatten(2).permute(2, 0, 1) for x in seen["vision_pos_enc"]],
                    feat_sizes=[x.shape[-2:] for x in seen["backbone_fpn"]],
                    point_inputs=points,
                    mask_inputs=None,
                    output_dict=outputs,
                    num_frames=length,
                )
            outputs["cond_frame_outputs" if i == 0 else "non_cond_frame_outputs"][i] = out
            logits, there = out["pred_masks"].float(), out["object_score_logits"].float()
            target = F.interpolate(torch.from_numpy(true)[None, None].cuda(), logits.shape[-2:], mode="area")
            share = logits.sigmoid()
            dice = 1 - (2 * (share * target).sum() + 1) / ((share + target).sum() + 1)
            loss = loss + 5 * F.binary_cross_entropy_with_logits(logits, target) + dice
            loss = loss + 0.1 * F.binary_cross_entropy_with_logits(there, torch.ones_like(there))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    path = checkpoint.with_name(f"{checkpoint.stem}_tuned.pt")
    torch.save({"model": net.state_dict()}, path)
    return path


def agreement_tuned(checkpoint: Path, size: str, frames: list[np.ndarray], count: int) -> dict[str, float]:
    """`agreement` on decided weights, and how often upstream's float32 masks are the true ellipse."""
    path = tuned(checkpoint, size, frames)
    result = agreement(path, size, frames[:count])
    upstream = Upstream(path, size, device="cuda")
    masks = upstream.masks(frames[:count], [BOX])
    result["upstream_to_truth"] = float((masks == np.stack([subject(i) > 0 for i in range(count)])).mean())
    return result


def cycled(frames: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    return (frames[i % len(frames)] for i in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "base_plus", "large"])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--long-sizes", nargs="*", default=["tiny", "large"])
    parser.add_argument("--part-sizes", nargs="*", default=["tiny", "large"])
    parser.add_argument("--tuned-sizes", nargs="*", default=["tiny", "large"])
    parser.add_argument("--agree-frames", type=int, default=10)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    frames = clip(arguments.frames)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "frames": arguments.frames,
        "picture": [WIDTH, HEIGHT],
        "sizes": {},
    }
    with (
        tempfile.TemporaryDirectory() as scratch,
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stderr(nothing),
    ):
        folder = Path(scratch) / "frames"
        folder.mkdir()
        for i, frame in enumerate(frames):
            cv2.imwrite(str(folder / f"{i:05d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        for size in arguments.sizes:
            row: dict[str, Any] = report["sizes"].setdefault(size, {})
            checkpoint = seeded_checkpoint(Path(scratch) / f"{size}.pt", size)

            def attempt(name: str, function: Any, *given: Any, row: dict[str, Any] = row, size: str = size) -> None:
                try:
                    row[name] = function(*given)
                except Exception as error:
                    import traceback

                    row[name] = {"error": f"{type(error).__name__}: {error}"}
                    print("".join(traceback.format_exc()), flush=True)
                arguments.out.write_text(json.dumps(report, indent=1))
                print(f"{time.perf_counter() - begin:6.1f} s  {size:10s} {name:22s} {row[name]}", flush=True)

            upstream = Upstream(checkpoint, size, device="cuda")
            upstream_run(upstream, folder, arguments.frames) if size == arguments.sizes[0] else None  # warm the card
            attempt("upstream", upstream_run, upstream, folder, arguments.frames)
            del upstream
            segmenter = Sam2Segmenter(checkpoint, size, "cuda")
            attempt("ours_first_run", drain, segmenter, FrameFolder(folder), arguments.frames)
            attempt("ours_with_supply", drain, segmenter, FrameFolder(folder), arguments.frames)
            attempt("ours_in_memory", drain, segmenter, frames, arguments.frames)
            if size in arguments.part_sizes:
                attempt("parts", parts, segmenter, frames[:16])
            if size in arguments.long_sizes:
                attempt("ours_long", drain, segmenter, cycled(frames, arguments.long), arguments.long)
            del segmenter
            attempt("agreement", agreement, checkpoint, size, frames[: arguments.agree_frames])
            if size in arguments.tuned_sizes:
                attempt("agreement_tuned", agreement_tuned, checkpoint, size, frames, arguments.agree_frames)
            checkpoint.unlink()
    report["seconds"] = round(time.perf_counter() - begin, 1)
    arguments.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
