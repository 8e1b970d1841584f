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
