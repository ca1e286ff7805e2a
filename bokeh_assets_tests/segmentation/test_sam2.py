"""SAM 2.1's masks are upstream's, whatever the prompt, the direction and the length."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch

from bokeh_assets.checkpoints import CHECKPOINTS
from bokeh_assets.errors import InputError
from bokeh_assets.segmentation.prompts import Prompt
from bokeh_assets.segmentation.sam2 import MODELS, Sam2Segmenter, state_shapes
from bokeh_assets.segmentation.sam2 import segmenter as segmenter_module
from bokeh_assets_tests.segmentation.sam2_upstream import Frame, Upstream, moving_square, seeded_checkpoint

SIZE = 64  # of the network's picture: 256 times less work than 1024
BOX = Prompt(frame=0, box=(15.0, 15.0, 50.0, 50.0))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt", "tiny")


@pytest.fixture(scope="module")
def ours(tiny: Path) -> Sam2Segmenter:
    return Sam2Segmenter(tiny, "tiny", "cpu", image_size=SIZE)


@pytest.fixture(scope="module")
def upstream(tiny: Path) -> Upstream:
    return Upstream(tiny, "tiny", SIZE)


def masks(segmenter: Sam2Segmenter, frames: Sequence[Frame], prompts: Sequence[Prompt]) -> np.ndarray:
    return np.stack([matte > 0.5 for matte in segmenter.segment(frames, prompts)])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert 0.02 < expected.mean() < 0.98  # a comparison of empty pictures would prove nothing
    assert (found == expected).mean() >= 0.9999


@pytest.fixture
def mask_prompt(tmp_path: Path) -> Prompt:
    picture = np.zeros((72, 128), np.uint8)
    picture[20:44, 29:53] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    return Prompt(frame=3, mask=tmp_path / "mask.png")


PROMPTS = {
    "box": [BOX],
    "point": [Prompt(frame=0, points=((30.0, 30.0),))],
    "box and points": [Prompt(box=(15.0, 15.0, 50.0, 50.0), points=((30.0, 30.0), (99.0, 60.0)), labels=(1, 0))],
    "later, both ways": [Prompt(frame=17, points=((60.0, 30.0), (110.0, 10.0)), labels=(1, 0))],
    "last frame": [Prompt(frame=18, box=(60.0, 10.0, 100.0, 50.0))],
    "several frames": [Prompt(frame=4, points=((40.0, 30.0),)), Prompt(frame=12, points=((60.0, 40.0),)),
                       Prompt(frame=8, box=(40.0, 20.0, 80.0, 60.0))],
    "two objects": [BOX, Prompt(frame=6, object=1, box=(60.0, 30.0, 110.0, 70.0))],
}  # fmt: skip


@pytest.mark.parametrize("kind", PROMPTS)
def test_masks_equal_upstreams(ours: Sam2Segmenter, upstream: Upstream, kind: str) -> None:
    # 19 frames: more than the 16 pointers and 7 memories that the network looks back at.
    frames = moving_square(19)
    assert_same(masks(ours, frames, PROMPTS[kind]), upstream.masks(frames, PROMPTS[kind]))


def test_masks_equal_upstreams_from_a_mask(ours: Sam2Segmenter, upstream: Upstream, mask_prompt: Prompt) -> None:
    frames = moving_square(8)  # shorter than 16 frames: pointers are timed by the video's length
    assert_same(masks(ours, frames, [mask_prompt]), upstream.masks(frames, [mask_prompt]))


def test_holes_are_filled_as_by_upstreams_cuda_extension(
    tiny: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy import ndimage

    def components(background: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels, _ = ndimage.label(background[0, 0].numpy(), np.ones((3, 3)))
        areas = np.bincount(labels.ravel())[labels]
        return torch.from_numpy(labels)[None, None], torch.from_numpy(areas)[None, None]

    frames = moving_square(4)
    plain = upstream.masks(frames, [BOX])
    monkeypatch.setattr("sam2.utils.misc.get_connected_components", components)
    filled = upstream.masks(frames, [BOX])
    assert (filled != plain).any()
    assert_same(masks(Sam2Segmenter(tiny, "tiny", "cpu", image_size=SIZE, hole_area=8), frames, [BOX]), filled)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_size_equals_upstream(tmp_path: Path, model: str, mask_prompt: Prompt) -> None:
    checkpoint = seeded_checkpoint(tmp_path / "weights.pt", model, seed=1)
    frames = moving_square(10)
    ours = Sam2Segmenter(checkpoint, model, "cpu", image_size=256)
    upstream = Upstream(checkpoint, model, 256)
    later = [Prompt(frame=4, points=((35.0, 30.0),))]
    for prompts in ([BOX], later, [mask_prompt]):
        assert_same(masks(ours, frames, prompts), upstream.masks(frames, prompts))


@pytest.mark.parametrize("model", MODELS)
def test_the_registry_knows_every_size(model: str) -> None:
    checkpoint = CHECKPOINTS[f"sam2.1_hiera_{model}"]
    assert checkpoint.model == model
    assert sum(int(np.prod(shape)) for shape in state_shapes(model).values()) == checkpoint.parameters


def test_a_stream_gives_what_a_list_gives(ours: Sam2Segmenter) -> None:
    frames = moving_square(5)
    for prompts in ([BOX], [Prompt(frame=2, box=(15.0, 15.0, 50.0, 50.0))]):
        listed = list(ours.segment(frames, prompts))
        streamed = list(ours.segment(iter(frames), prompts))
        assert all(np.array_equal(a, b) for a, b in zip(listed, streamed, strict=True))
        assert listed[0].dtype == np.float32 and listed[0].shape == (72, 128)
        assert min(m.min() for m in listed) >= 0 and max(m.max() for m in listed) <= 1


def test_a_stream_is_read_only_as_far_as_needed(ours: Sam2Segmenter) -> None:
    taken = []

    def source() -> Iterator[Frame]:
        for i, frame in enumerate(moving_square(40)):
            taken.append(i)
            yield frame

    mattes = ours.segment(source(), [BOX])
    next(mattes)
    assert max(taken) < 25
    before = threading.active_count()
    mattes.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before  # the reading thread is gone


def test_states_are_bounded(ours: Sam2Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    original = segmenter_module.Memories.keep

    def keep(self: segmenter_module.Memories, *given: object) -> None:
        original(self, *given)  # type: ignore[arg-type]
        kept.append(len(self.passed))
        assert all(seen.logits is None for seen in self.passed.values())

    monkeypatch.setattr(segmenter_module.Memories, "keep", keep)
    for _ in ours.segment(moving_square(24), [BOX]):
        pass
    assert max(kept) == 16 and len(kept) == 23


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_five_thousand_frames_in_flat_memory(tiny: Path) -> None:
    ours = Sam2Segmenter(tiny, "tiny", "cpu", image_size=64)
    pictures = moving_square(50)
    process = psutil.Process()
    sizes = []
    stream = (pictures[i % 50] for i in range(5000))
    for i, matte in enumerate(ours.segment(stream, [BOX])):
        assert matte.shape == (72, 128)
        if i in (500, 4999):
            gc.collect()
            sizes.append(process.memory_info().rss)
    assert i == 4999
    assert sizes[1] - sizes[0] < 20e6  # upstream would have added 4500 states and pictures


def test_progress_counts_frames(ours: Sam2Segmenter) -> None:
    seen: list[int] = []
    for _ in ours.segment(moving_square(3), [BOX], progress=seen.append):
        pass
    assert seen == [1, 2, 3]


def test_an_error_of_the_source_reaches_the_caller(ours: Sam2Segmenter) -> None:
    def source() -> Iterator[Frame]:
        yield from moving_square(18)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(ours.segment(source(), [BOX]))


def test_an_object_that_is_gone_has_an_empty_matte(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint(tmp_path / "gone.pt", "tiny")
    weights = torch.load(checkpoint, weights_only=True)
    weights["model"]["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(-1000.0)
    torch.save(weights, checkpoint)
    mattes = list(Sam2Segmenter(checkpoint, "tiny", "cpu", image_size=SIZE).segment(moving_square(3), [BOX]))
    assert not any(matte.any() for matte in mattes)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "needs to be told the subject"),
        ([Prompt(frame=5, points=((1.0, 1.0),))], "5 frames"),
        ([Prompt(frame=0, points=((500.0, 1.0),))], "outside"),
        ([Prompt(frame=0, object=1, box=(1.0, 1.0, 9.0, 9.0)), Prompt(frame=0, object=1, box=(2.0, 2.0, 9.0, 9.0))], "two boxes"),  # noqa: E501
        ([Prompt(frame=0, mask=Path("nowhere.png"))], "nowhere.png"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_used_are_said(ours: Sam2Segmenter, prompts: list[Prompt], words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(ours.segment(moving_square(5), prompts))


def test_a_video_without_frames_is_said(ours: Sam2Segmenter) -> None:
    with pytest.raises(InputError, match="no frames"):
        list(ours.segment(iter(()), [BOX]))


def test_wrong_checkpoints_are_said(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sam2.1_hiera_small .*checkpoints download sam2.1_hiera_small"):
        Sam2Segmenter(tiny, "small", "cpu")
    with pytest.raises(InputError, match="missing"):
        Sam2Segmenter(tmp_path / "none.pt", "tiny", "cpu")
    with pytest.raises(InputError, match="known are tiny, small, base_plus, large"):
        Sam2Segmenter(tiny, "huge", "cpu")
