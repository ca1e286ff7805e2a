"""Fixtures every test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(autouse=True)
def _environment_put_back() -> Iterator[None]:
    """The program names its home in its own environment (`prepare_home`); the next test must not inherit it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden vectors and real footage that is kept beside the repository, not in it."""
    folder = Path(os.environ.get("BOKEH_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden vectors or footage at {folder}; set BOKEH_SHARED to where they are")
    return folder


@pytest.fixture(scope="session")
def seed_weights(shared: Path) -> ModuleType:
    """The golden vectors' own rule for drawing weights and inputs (see golden/README.md)."""
    spec = importlib.util.spec_from_file_location("seed_weights", shared / "golden" / "seed_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
