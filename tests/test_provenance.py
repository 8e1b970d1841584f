"""Provenance: which modules a notebook rests on, and nothing that names this machine or its user."""

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gencausal import notebook, paths, provenance


def test_modules_are_followed_transitively():
    """`06_claims` imports claims and figures; claims imports notebook, which imports paths and checks."""
    found = {path.as_posix() for path in provenance.modules("06_claims")}
    assert {"src/gencausal/__init__.py", "src/gencausal/claims/__init__.py", "src/gencausal/claims/verdicts.py", "src/gencausal/figures.py",
            "src/gencausal/notebook.py", "src/gencausal/paths.py", "src/gencausal/checks.py"} <= found
    assert not found & {"src/gencausal/report/__init__.py", "src/gencausal/training.py", "src/gencausal/run.py"}, "only what is imported"
    assert all((paths.root() / path).is_file() for path in found)


def test_modules_agree_with_what_python_imports():
    """The modules that a kernel would load for 00_overview, save those that libraries import lazily, are the ones that are named."""
    lines = [line for cell in notebook.read("00_overview").cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.startswith(("from gencausal", "import gencausal"))]
    program = "\n".join(lines) + "\nimport sys\nprint('\\n'.join(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'gencausal'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {Path(line).resolve().relative_to(provenance.CHECKOUT).as_posix() for line in done.stdout.split()}
    assert lines and loaded <= {path.as_posix() for path in provenance.modules("00_overview")}


def test_what_computes_is_what_the_names_come_from(tmp_path, monkeypatch):
    """A package that only hands names on is passed through; what shows is left out; a package that computes counts with all it imports."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(notebook, "source_path", lambda name: notebooks / f"{name}.py")
    (notebooks / "x.py").write_text("from gencausal import claims, figures\nfrom gencausal.estimators import IWDD\n", encoding="utf-8")
    found = {path.as_posix().removeprefix("src/gencausal/") for path in provenance.computing("x")}
    assert {"estimators/iwdd.py", "estimators/outcomes.py", "training.py", "nn/mlp.py", "metrics.py", "paths.py"} <= found
    assert not found & {"estimators/__init__.py", "__init__.py", "figures.py", "claims/__init__.py", "claims/rows.py", "notebook.py"}
    (notebooks / "x.py").write_text("from gencausal import baselines\n", encoding="utf-8")
    found = {path.as_posix().removeprefix("src/gencausal/") for path in provenance.computing("x")}
    assert {"baselines/__init__.py", "baselines/learners.py", "baselines/networks/fitting.py"} <= found
    for name in notebook.names():
        (notebooks / f"{name}.py").write_text((paths.root() / "notebooks" / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
        assert set(provenance.computing(name)) <= set(provenance.modules(name))


@pytest.mark.parametrize(("source", "expected"), [
    ('"""Words."""\nfrom a import b\n__all__ = ["b"]\ndef __getattr__(name):\n    from a import c\n', True),
    ("from a import b\nb.setup()\n", False), ("from a import b\nb.x = 1\n", False), ("from a import b\nY = b()\n", False), ("def f():\n    pass\n", False), ("class A:\n    pass\n", False),
])
def test_a_package_hands_on_only_where_nothing_else_runs(source, expected):
    assert provenance._hands_on(ast.parse(source)) is expected


def test_stale_names_the_first_file_that_computes_and_changed(tmp_path, monkeypatch):
    """A changed comment, docstring or figure leaves the numbers as they are; a changed formula or an edited notebook does not."""
    (tmp_path / "src" / "gencausal").mkdir(parents=True)
    for name, text in (("metrics", '"""Metrics."""\n\nX = 1  # one\n'), ("figures", "SIZE = 1\n"), ("x", "from gencausal import metrics, figures\n")):
        (tmp_path / "src" / "gencausal" / f"{name}.py").write_text(text, encoding="utf-8")
    metrics, figure, source = (tmp_path / "src" / "gencausal" / f"{name}.py" for name in ("metrics", "figures", "x"))
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    monkeypatch.setattr(provenance, "_file", lambda module: path if (path := tmp_path / "src" / (module.replace(".", "/") + ".py")).is_file() else None)
    monkeypatch.setattr(notebook, "source_path", lambda name: source)
    provenance._tree.cache_clear()
    record = {"notebook": "x", "source_sha256": provenance.sha256(source),
              "modules": {path.as_posix(): provenance.code_sha256(path) for path in provenance.modules("x")}}
    assert set(record["modules"]) == {"src/gencausal/metrics.py", "src/gencausal/figures.py"} and provenance.stale(record) == ""
    metrics.write_text('"""Other words."""\n\nX = 1\n', encoding="utf-8")
    figure.write_text("SIZE = 2\n", encoding="utf-8")
    assert provenance.stale(record) == ""
    metrics.write_text("X = 2\n", encoding="utf-8")
    assert provenance.stale(record) == "src/gencausal/metrics.py"
    metrics.write_text("X = 1\n", encoding="utf-8")
    provenance._tree.cache_clear()
    now = type("Plan", (), {"parameters": {"profile": "full", "steps": 2}})
    monkeypatch.setattr(notebook, "plan", lambda name, profile: now if (name, profile) == ("x", "full") else None)
    assert provenance.stale(record | {"profile": "full", "parameters": {"steps": 2, "profile": "full"}}) == ""
    assert provenance.stale(record | {"profile": "full", "parameters": {"steps": 3, "profile": "full"}}) == "the parameters of profile full"
    source.write_text("# edited\nfrom gencausal import metrics, figures\n", encoding="utf-8")
    assert provenance.stale(record) == "notebooks/x.py"


@pytest.mark.parametrize(("source", "package", "expected"), [
    ("import gencausal.paths", "", {"gencausal", "gencausal.paths"}),
    ("from gencausal import paths as p", "", {"gencausal", "gencausal.paths"}),
    ("from gencausal.claims.rows import COLUMNS", "", {"gencausal", "gencausal.claims", "gencausal.claims.rows"}),
    ("from . import rows", "gencausal.claims", {"gencausal", "gencausal.claims", "gencausal.claims.rows"}),
    ("from .. import paths", "gencausal.claims", {"gencausal", "gencausal.paths"}),
    ("def f():\n    from gencausal import seeding", "", {"gencausal", "gencausal.seeding"}),
    ("import numpy, gencausalish", "", set()),
])
def test_imports_by_kind(source, package, expected):
    assert provenance._imports(ast.parse(source), package) == expected


def test_parsing_the_graph_loads_nothing_heavy():
    """Snakemake reads the graph before every job; torch and pandas would cost it seconds."""
    program = "import sys; from gencausal import notebook, paths, provenance; notebook.plan('06_claims', 'smoke'); provenance.modules('06_claims'); print([m for m in ('torch', 'pandas', 'scipy', 'matplotlib', 'papermill') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_collect_has_the_fields_of_the_contract():
    plan = notebook.plan("06_claims", "smoke")
    stamp = provenance.collect(plan, status="completed", cells={"completed": 3}, started="2026-01-01T00:00:00+00:00", wall_seconds=1.234, kernel={"threads": 2, "data": {"x.csv": "ab"}})
    assert list(stamp) == ["notebook", "profile", "parameters", "seeds", "commit", "dirty", "source_sha256", "modules", "data", "lock_sha256", "started", "wall_seconds", "cpu_seconds",
                           "peak_memory_mib", "python", "platform", "torch", "cpu_capability", "threads", "device", "versions", "status", "cells", "run_id"]
    assert stamp["threads"] == 2 and stamp["data"] == {"x.csv": "ab"} and stamp["device"] is None and stamp["torch"].startswith("2.13")
    text = json.dumps(stamp)
    for private in (str(Path.home()), str(paths.root()), os.uname().nodename):
        assert private not in text


def test_scrub_takes_paths_and_leaves_text():
    root, home, temporary = str(paths.root()), str(Path.home()), tempfile.gettempdir()
    assert provenance.scrub(f'File "{root}/src/x.py", line 3') == 'File "./src/x.py", line 3'
    assert provenance.scrub(f"in {root}") == "in ."
    assert provenance.scrub(f"{sys.prefix}/lib/a.py").startswith((".venv/lib", "./.venv/lib"))
    assert provenance.scrub(f"{temporary}/ipykernel_12/34.py:1: UserWarning") == "<cell>:1: UserWarning"
    assert provenance.scrub(f"{temporary}/abc") == "<tmp>/abc"
    assert provenance.scrub("a/b and tmp and 3/4") == "a/b and tmp and 3/4"
    assert home == "/" or home not in provenance.scrub(f"{home}/secret")
    assert provenance.scrub(f"{root}ish/x").endswith(f"{Path(root).name}ish/x"), "only whole folder names"


def test_commit_outside_git_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.commit.cache_clear()
    assert provenance.commit() == ("unknown", None)
    provenance.commit.cache_clear()
