"""No file that is loaded can run code: neither by what the package calls, nor when hostile files are put to it."""

from __future__ import annotations

import ast
import io
import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import bokeh_assets
from bokeh_assets.checkpoints import CHECKPOINTS
from bokeh_assets.cli import main
from bokeh_assets.depth.video_depth_anything.loading import load_video_depth_anything
from bokeh_assets.errors import InputError
from bokeh_assets.rendering.any_to_bokeh.loading import verify
from bokeh_assets.segmentation.sam2.model import load

PACKAGE = Path(bokeh_assets.__file__).parent

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load",
    "dill.load", "cloudpickle.load", "pd.read_pickle", "pandas.read_pickle", "torch.jit.load", "torch.hub.load",
    "torch.package.PackageImporter", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "eval", "exec",
    "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module",
}  # fmt: skip

SAFE_LOADERS = {
    made.name
    for file in PACKAGE.rglob("*.py")
    for made in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(made, ast.ClassDef) and "yaml.SafeLoader" in map(ast.unparse, made.bases)
}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package as (where, call)."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{file.relative_to(PACKAGE)}:{node.lineno}", node


def unsafe(call: ast.Call) -> str | None:
    """What is wrong with a call, if anything."""
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    if name in FORBIDDEN:
        return f"{name} may run what it reads"
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True unpickles code"
    if name == "yaml.load" and ast.unparse(call.args[-1]) not in SAFE_LOADERS:
        return "yaml.load with a loader that is not a SafeLoader makes any object"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        return "np.load with allow_pickle unpickles code"
    if given.get("trust_remote_code", "False") != "False":
        return "trust_remote_code runs what was downloaded"
    if given.get("shell", "False") != "False":
        return "shell=True has a shell read file names"
    if name.endswith(".from_pretrained") and name != "AnyToBokeh.from_pretrained":
        return f"{name} chooses itself how to read weights"
    return None


def test_nothing_in_the_package_loads_what_may_run():
    found = [(where, problem) for where, call in calls() if (problem := unsafe(call))]
    assert not found
    names = [ast.unparse(call.func) for _, call in calls()]
    assert names.count("torch.load") >= 3 and "yaml.safe_load" in names, "the walk sees what there is to see"


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "yaml.load(t)",
        "pickle.loads(b)", "eval(t)", "subprocess.run(t, shell=True)", "AutoModel.from_pretrained(p)",
    ],
)  # fmt: skip
def test_the_walk_sees_what_is_unsafe(line: str):
    (node,) = ast.parse(line).body
    assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and unsafe(node.value)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def hostile(kind: str, mark: Path, floats: int = 3) -> bytes:
    """A checkpoint that runs a command when it is unpickled, in one of the formats torch reads."""
    file = io.BytesIO()
    if kind == "plain pickle":
        pickle.dump(Bomb(mark), file)
        file.write(bytes(4 * floats))
    else:
        torch.save(
            {"weight": torch.zeros(floats), "more": Bomb(mark)}, file, _use_new_zipfile_serialization=kind == "zip"
        )
    return file.getvalue()


def by_command(path: Path) -> None:
    name = "sam2.1_hiera_tiny"
    target = checkpoint_file(path, name)
    path.replace(target)
    folder = {"BOKEH_CHECKPOINTS_DIR": str(target.parent)}
    result = CliRunner().invoke(main, ["checkpoints", "verify", name], env=folder)
    assert "more than weights" in result.stderr, result.stderr
    assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1
    raise InputError(result.stderr)


def checkpoint_file(path: Path, name: str) -> Path:
    folder = path.with_name("checkpoints")
    folder.mkdir(exist_ok=True)
    return folder / CHECKPOINTS[name].path


def by_sam2(path: Path) -> None:
    load("tiny", path, torch.device("cpu"), image_size=128)


def by_depth(path: Path) -> None:
    load_video_depth_anything(path)


def by_folder(path: Path) -> None:
    folder = path.with_name("unet")
    folder.mkdir(exist_ok=True)
    (folder / "diffusion_pytorch_model.bin").write_bytes(path.read_bytes())
    verify(folder, {"weight": (3,)})


LOADERS = [by_command, by_sam2, by_depth, by_folder]


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_malicious_checkpoint_is_refused_on_every_way_in(loader: Callable[[Path], None], kind: str, tmp_path: Path):
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    # As large as the official file, or it would be refused before it is opened.
    path.write_bytes(hostile(kind, mark, CHECKPOINTS["sam2.1_hiera_tiny"].size // 4 if loader is by_command else 3))
    with pytest.raises(InputError):
        loader(path)
    assert not mark.exists()


def test_the_hostile_files_are_hostile(tmp_path: Path):
    for kind in ("zip", "legacy", "plain pickle"):
        mark, path = tmp_path / kind.split()[0], tmp_path / "weights.pth"
        path.write_bytes(hostile(kind, mark))
        with suppress(pickle.UnpicklingError, RuntimeError):
            torch.load(path, weights_only=False)
        assert mark.exists(), kind


@pytest.mark.parametrize("loader", [by_depth, by_folder])
def test_a_damaged_checkpoint_is_one_clear_error_however_it_is_damaged(loader: Callable[[Path], None], tmp_path: Path):
    path, draw = tmp_path / "weights.pth", random.Random(7)
    for legacy in (False, True):
        file = io.BytesIO()
        state = {"weight": torch.arange(3.0), "pretrained.cls_token": torch.zeros(1, 1, 384)}
        torch.save(state, file, _use_new_zipfile_serialization=not legacy)
        good = file.getvalue()
        for _ in range(100):
            data = bytearray(good)
            for _ in range(draw.choice([1, 1, 4, 40])):
                data[draw.randrange(len(data))] = draw.randrange(256)
            path.write_bytes(bytes(data[: draw.choice([len(data), len(data), draw.randrange(len(data))])]))
            with pytest.raises(InputError):
                loader(path)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path):
    folder = tmp_path / "unet"
    folder.mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.bin")
    index = '{"weight_map": {"weight": "../other.bin"}}'
    (folder / "diffusion_pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(InputError, match=r"other\.bin"):
        verify(folder, {"weight": (3,)})
