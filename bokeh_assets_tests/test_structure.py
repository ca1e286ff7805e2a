"""The house rules on who may import whom, and that looking at the graph stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bokeh_assets

PACKAGE = Path(bokeh_assets.__file__).parent
ENGINES = ("media", "segmentation", "depth", "rendering")


def imported(file: Path) -> set[str]:
    """Names of all modules a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("engine", [*ENGINES, "focus.py", "metrics.py", "steady.py"])
def test_engines_know_neither_dagster_nor_each_other(engine: str):
    path = PACKAGE / engine
    own = engine.removesuffix(".py")
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        for name in imported(file):
            assert name.partition(".")[0] != "dagster", f"{file} imports {name}"
            inside = name.split(".")
            if inside[0] != "bokeh_assets" or len(inside) < 2 or inside[1] not in ENGINES or inside[1] == own:
                continue
            assert name.startswith("bokeh_assets.media"), f"{file} imports {name}"


def test_serving_the_graph_loads_no_model_library():
    code = (
        "import bokeh_assets.definitions, sys;"
        "print([m for m in ('torch', 'numba', 'sam2', 'diffusers', 'transformers', 'av') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_asset_is_tagged_partitioned_and_described():
    import dagster as dg

    from bokeh_assets.definitions import defs
    from bokeh_assets.versions import CODE_VERSION, READS

    graph = defs.resolve_asset_graph()
    made = {key.to_user_string(): graph.get(key) for key in graph.materializable_asset_keys}
    assert set(made) == set(READS)
    for name, node in made.items():
        assert node.partitions_def == dg.DynamicPartitionsDefinition(name="videos")
        assert node.description and node.kinds and node.code_version == CODE_VERSION[name]
        assert {key.to_user_string() for key in node.parent_keys} - {"upload"} == set(READS[name])
    cuda = {name for name, node in made.items() if "cuda" in node.kinds}
    assert cuda == {"masks", "depth_maps", "bokeh_video"}
    for name in cuda:
        definition = graph.assets_def_for_key(dg.AssetKey(name))
        assert definition.op.pool == "cuda"
        assert definition.op.tags["dagster-celery/queue"] == "cuda"
