"""Imports point to a lower level, save for the arrows that DESIGN.md writes; read from the source, nothing is imported."""

import ast
from pathlib import Path

import pytest

import gencausal
from gencausal import paths

SOURCE = Path(gencausal.__file__).resolve().parent
LEVELS = [
    ("paths", "seeding", "checks", "source_code", "checkpoints", "graph"),
    ("data",),
    ("schedules", "nn", "scm"),
    ("diffusion", "distillation", "released", "guidance", "vci", "cond_fip"),
    ("training",),
    ("sampling", "solvers", "counterfactual"),
    ("metrics", "image_metrics", "cell_metrics", "independence", "robust", "nulls", "bounds", "debias", "quantize", "quantize_images", "baselines", "image_models", "cell_models", "scm_metrics", "scm_models", "amortised", "estimators"),
    ("experiments",),
    ("claims", "figures", "provenance", "notebook", "report", "run", "cli"),
]
LAST = len(LEVELS) - 1
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
# Arrows within a level: a schedule or a network in a model, the method that distils another, what baselines and estimators share, and the last level among itself.
BESIDE = {("scm", "nn"), ("counterfactual", "solvers"), ("distillation", "diffusion"), ("released", "diffusion"), ("released", "distillation"), ("nulls", "metrics"), ("independence", "nulls"), ("quantize_images", "quantize"), ("estimators", "metrics"), ("estimators", "baselines"), ("estimators", "image_models"), ("estimators", "amortised"), ("estimators", "scm_models"), ("estimators", "cell_models"), ("estimators", "robust"), ("baselines", "metrics")}
# Levels that a module may import, where they are fewer than all below it: the loop knows no method, metrics know no model, results know no model
# (but may use the pure functions of metrics).
ONLY = {"training": {0}, "sampling": {0, 2, 3}, "solvers": {0, 2, 3}, "counterfactual": {0, 2, 3, 5}, "metrics": {0}, "image_metrics": {0}, "cell_metrics": {0}} | {module: {0, LAST} for module in LEVELS[-1]} | {"cli": {0, 1, LAST}}


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def module_of(path: Path) -> str:
    """The first part of the name below gencausal: `nn` for nn/mlp.py."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(source: str, path: Path) -> set[str]:
    """First parts of the gencausal modules that `source` imports, wherever the import stands; TYPE_CHECKING blocks count too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["gencausal", *path.relative_to(SOURCE).parts[:-1]]
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]) if node.level else node.module
            names = [f"{base}.{alias.name}" if base == "gencausal" else base for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("gencausal.")}
    return found - {"__version__"}


def problems(module: str, imports: set[str]) -> list[str]:
    """What `module` imports against the plan."""
    wrong = []
    for other in sorted(imports - {module}):
        if other not in LEVEL:
            wrong.append(f"{module} imports {other}, which has no level")
        elif LEVEL[other] > LEVEL[module]:
            wrong.append(f"{module} imports {other}, which lies above it")
        elif LEVEL[other] == LEVEL[module] and LEVEL[module] not in (0, LAST) and (module, other) not in BESIDE:
            wrong.append(f"{module} imports {other} on its own level")
        elif (LEVEL[module], other) == (LAST, "metrics"):
            continue
        elif LEVEL[other] not in ONLY.get(module, set(range(LAST + 1))):
            wrong.append(f"{module} imports {other}, a level that it must not know")
    return wrong


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path):
    module = module_of(path)
    assert module in LEVEL, f"{module} has no level; write it into DESIGN.md's table and this test"
    assert problems(module, imported(path.read_text(encoding="utf-8"), path)) == []


def test_a_wrong_import_is_seen():
    """The reader finds every form of import, and the rule refuses what it should."""
    assert imported("from gencausal import claims as c, paths\nimport gencausal.training\nfrom gencausal.nn.mlp import x\nfrom . import y\nfrom ..data import z", SOURCE / "report" / "pages.py") >= {"claims", "paths", "training", "nn", "report", "data"} - {"report"}
    assert imported("def f():\n    from gencausal import run", SOURCE / "nn" / "mlp.py") == {"run"}
    for module, other in [("paths", "data"), ("training", "diffusion"), ("metrics", "data"), ("diffusion", "guidance"), ("claims", "estimators"), ("report", "data"), ("sampling", "training"), ("nn", "novel")]:
        assert len(problems(module, {other})) == 1, f"{module} -> {other}"
    assert problems("distillation", {"diffusion", "nn", "schedules", "paths"}) == problems("run", {"notebook", "provenance", "claims"}) == []


def test_modules_stay_small():
    """A module past 400 lines becomes a package."""
    assert {path.name: n for path in files() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400} == {}


def test_nothing_unpickles_and_nothing_seeds_globally():
    for path in files():
        source = path.read_text(encoding="utf-8")
        for call in ("pickle", "torch.load", "torch.save", "np.random.seed", "torch.manual_seed", "random.seed"):
            used = [line for line in source.splitlines() if call + "(" in line or f"import {call}" in line]
            assert not used, f"{path.relative_to(paths.root())}: {used}"
