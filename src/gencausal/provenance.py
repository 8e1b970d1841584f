"""Where a result comes from: code, data, parameters, machine. One JSON for each run, without user name, host name or absolute path."""

import ast
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

from gencausal import notebook, paths, source_code

# What shows, judges or runs, and computes no row: every report judges the ledger anew.
SHOWING = ("claims", "figures", "notebook", "provenance", "report", "run", "cli")
CHECKOUT = Path(__file__).resolve().parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def modules(name: str) -> list[Path]:
    """The files of `gencausal` that notebook `name` imports, directly or through other modules, as paths below the root.

    Read from the syntax trees, so that nothing is imported; packages count with their `__init__` files, template files with theirs.
    """
    return _follow(name, _imports)


def computing(name: str) -> list[Path]:
    """Those of `modules(name)` whose code can change a number of notebook `name`: a change of theirs makes its published rows stale.

    Left out are `SHOWING` and, where a package only hands names on, what the notebook's names do not come from: a new estimator beside the one in use changes nothing.
    """
    return [path for path in _follow(name, _sources) if path.parts[2].removesuffix(".py") not in SHOWING]


def stale(record: dict) -> str:
    """The first of notebook, modules and parameters that has changed since the run of `record` (from `collect`) so that its numbers or its text may differ, or empty."""
    source, known = notebook.source_path(record["notebook"]), record.get("modules", {})
    if not source.is_file() or sha256(source) != record.get("source_sha256"):
        return f"notebooks/{record['notebook']}.py"
    changed = next((path.as_posix() for path in computing(record["notebook"]) if known.get(path.as_posix()) != code_sha256(path)), "")
    if not changed and "parameters" in record and notebook.plan(record["notebook"], record["profile"]).parameters != record["parameters"]:
        changed = f"the parameters of profile {record['profile']}"
    return changed


def _follow(name: str, step: Callable[[ast.Module, str], set[str]]) -> list[Path]:
    """Files of the modules that `step` finds in notebook `name` and in what it finds there, and so on."""
    source = notebook.source_path(name).read_text(encoding="utf-8")
    source = re.sub(r"^\s*[%!].*$", "", source, flags=re.M)
    found, waiting = set(), step(ast.parse(source), "")
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        path = _file(module)
        waiting |= step(_tree(path), module if path.name == "__init__.py" else module.rpartition(".")[0])
    return sorted({_file(module).relative_to(CHECKOUT) for module in found})


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _pairs(tree: ast.Module, package: str) -> set[tuple[str, str]]:
    """(module, name) of everything that `tree` imports, name empty for a module as a whole; `package` resolves relative imports."""
    wanted = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            wanted |= {(base, alias.name) for alias in node.names}
    return wanted


def _sources(tree: ast.Module, package: str) -> set[str]:
    """Names of our modules that what `tree` imports comes from: a package that only hands names on is passed through."""
    found = set()
    for base, name in _pairs(tree, package):
        if base.split(".")[0] != "gencausal":
            continue
        if name and _file(f"{base}.{name}"):
            found.add(f"{base}.{name}")
        elif _file(base) and _file(base).name == "__init__.py" and _hands_on(_tree(_file(base))):
            given = {alias.asname or alias.name: (node, alias.name) for node in ast.walk(_tree(_file(base))) if isinstance(node, ast.ImportFrom) for alias in node.names}
            if name in given:
                node, inner = given[name]
                found |= _sources(ast.Module([ast.ImportFrom(node.module, [ast.alias(inner)], node.level)], []), base)
            elif base != "gencausal":
                found |= _imports(_tree(_file(base)), base)
        elif _file(base):
            found.add(base)
    return found


def _hands_on(tree: ast.Module) -> bool:
    """Whether a package's `__init__` holds imports, a docstring, `__all__` and a lazy `__getattr__` alone."""
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
               or isinstance(node, ast.Assign) and all(isinstance(name, ast.Name) and name.id in ("__all__", "__version__") for name in node.targets)
               or isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)


def _imports(tree: ast.Module, package: str) -> set[str]:
    """Names of our modules that `tree` imports, with the packages they lie in."""
    wanted = {module for base, name in _pairs(tree, package) for module in ([base, f"{base}.{name}"] if name else [base])}
    ours = set()
    for module in wanted:
        parts = module.split(".")
        if parts[0] == "gencausal":
            ours |= {".".join(parts[:i]) for i in range(1, len(parts) + 1) if _file(".".join(parts[:i]))}
    return ours


@cache
def _file(module: str) -> Path | None:
    """The source file of one of our modules, None if there is none."""
    base = Path(__file__).resolve().parent.joinpath(*module.split(".")[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def sha256(path: Path) -> str:
    """Hex digest of the bytes of `path`."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_sha256(path: Path) -> str:
    """Hex digest of the code of `path`, a file below the root, without comments and docstrings."""
    return hashlib.sha256(source_code.bare(CHECKOUT / path)).hexdigest()


@cache
def commit() -> tuple[str, bool | None]:
    """The commit of the checkout and whether files differ from it; ("unknown", None) outside git."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=paths.root(), capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", None


@cache
def versions() -> dict[str, str]:
    """Installed version of every package that pyproject.toml asks for."""
    project = tomllib.loads((paths.root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for requirement in project["dependencies"]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def collect(plan: notebook.Plan, *, status: str, cells: dict[str, int], started: str, wall_seconds: float, kernel: dict) -> dict:
    """The provenance of one run, ready for JSON.

    plan: what was run; status: completed or failed; cells: number of code cells completed, failed, pending, running; started: UTC, ISO 8601;
    wall_seconds: of the execution; kernel: what the kernel reported when it ended (`run.REPORTER`): cpu_seconds, peak_memory_mib, device,
    cpu_capability, threads, data; missing entries become null.
    """
    head, dirty = commit()
    root = paths.root()
    return {
        "notebook": plan.name,
        "profile": plan.profile,
        "parameters": plan.parameters,
        "seeds": plan.parameters.get("seeds", []),
        "commit": head,
        "dirty": dirty,
        "source_sha256": plan.source_sha256,
        "modules": {path.as_posix(): code_sha256(path) for path in modules(plan.name)},
        "data": kernel.get("data") or {},
        "lock_sha256": sha256(root / "requirements" / "lock.txt"),
        "started": started,
        "wall_seconds": round(wall_seconds, 2),
        "cpu_seconds": kernel.get("cpu_seconds"),
        "peak_memory_mib": kernel.get("peak_memory_mib"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": versions().get("torch"),
        "cpu_capability": kernel.get("cpu_capability"),
        "threads": kernel.get("threads") or os.environ.get(THREADS[0]),
        "device": kernel.get("device"),
        "versions": versions(),
        "status": status,
        "cells": cells,
        "run_id": plan.run_id,
    }


def scrub(text: str) -> str:
    """`text` without the absolute paths of this machine: the root, the build and environment folders, the home and the temporary folder."""
    known = {str(paths.root()): ".", os.environ.get("GENCAUSAL_BUILD", ""): "build", sys.prefix: ".venv", sys.base_prefix: "<python>",
             str(Path.home()): "~", os.path.realpath(tempfile.gettempdir()): "<tmp>", tempfile.gettempdir(): "<tmp>"}
    text = re.sub(r"(?<![^\s\"'(])[^\s\"']{0,200}/ipykernel_\d+/\d+\.py", "<cell>", text)  # tried at the start of a word only, so that long words cost nothing
    for folder in sorted(known, key=len, reverse=True):
        if len(folder) > 1 and folder not in ("/usr", "/usr/local"):
            text = re.sub(re.escape(folder) + r"(?=[/\\\s\"':;,)\]<]|$)", known[folder], text)
    return text
