"""The runner: one notebook executed with papermill, accepted whole or not at all.

papermill alone would run a mistyped parameter with the defaults, keep absolute paths, and leave a killed run looking unharmed.
Here everything is checked first (`notebook.plan`), the kernel gets its own IPYTHONDIR and a staging folder for rows, and only if every code
cell is `completed` do rows, provenance and notebook move to their places. A failing run keeps `<name>.failed.ipynb` and no accepted file.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from gencausal import notebook, paths, provenance
from gencausal.checks import InputError

# The C library keeps freed memory for the next tensor instead of returning it: on virtual machines each page that comes back costs as much as the arithmetic on it (glibc reads these, others ignore them).
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
STATES = ("completed", "failed", "pending", "running")

# Runs in the kernel before the first cell, and writes what only the kernel knows when it ends. It leaves no name behind.
REPORTER = '''
def _(path):
    def write():
        import json, resource, sys
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 2**20 if sys.platform == "darwin" else 2**10
        facts = {"cpu_seconds": round(used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime, 2),
                 "peak_memory_mib": round(max(used.ru_maxrss, children.ru_maxrss) / unit)}
        torch = sys.modules.get("torch")
        if torch is not None:
            facts["threads"] = torch.get_num_threads()
            facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
            facts["device"] = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        registry = sys.modules.get("gencausal.data.registry")
        if registry is not None:
            facts["data"] = registry.used()
        with open(path, "w") as file:
            json.dump(facts, file)
    import atexit
    atexit.register(write)
import os
_(os.environ["GENCAUSAL_KERNEL_REPORT"])
del _, os
'''


class RunError(RuntimeError):
    """A notebook that did not complete; the message names the cell and the error, `path` the kept notebook."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


def run(name: str, profile: str = "smoke", seed: int | None = None, settings: dict | None = None, threads: int | None = None) -> Path:
    """Execute notebook `name` at `profile` and return the path of the accepted notebook below `paths.build(profile)`.

    seed: run the seed stage, `seeds=[seed]`, whose files go to `seeds/<name>-<seed>.*` and whose purpose is the checkpoints it leaves;
    settings: parameter values over those of the profile; threads: of the numeric libraries (default: `OMP_NUM_THREADS`, else theirs).

    Raises InputError before anything runs, RunError if a cell fails.
    """
    plan = notebook.plan(name, profile, seed, settings)
    if threads is not None and threads < 1:
        raise InputError(f"--threads is {threads}; give 1 or more.")
    files = _Files(plan)
    files.clear()
    staging = Path(tempfile.mkdtemp(dir=paths.build(profile), prefix=f".staging-{files.label}-"))
    environment = {"IPYTHONDIR": str(staging / "ipython"), "GENCAUSAL_RESULTS": str(staging / "results"), "GENCAUSAL_RUN_ID": plan.run_id,
                   "GENCAUSAL_KERNEL_REPORT": str(staging / "kernel.json"), "TQDM_DISABLE": "1"}
    environment |= {variable: value for variable, value in MEMORY.items() if variable not in os.environ}
    environment |= {variable: str(threads) for variable in provenance.THREADS if threads is not None}
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
    try:
        startup = staging / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "00-report.py").write_text(REPORTER, encoding="utf-8")
        with _environ(environment):
            made, error = _execute(plan, files.running)
            report = _json(staging / "kernel.json")
            _finish(made, files)
            cells = _states(made)
            accepted = error is None and cells["completed"] == sum(cells.values())
            stamp = provenance.collect(plan, status="completed" if accepted else "failed", cells=cells, started=started,
                                       wall_seconds=time.monotonic() - clock, kernel=report)
        if not accepted:
            _write(files.failed, made)
            paths.write_whole(files.provenance, _dump(stamp))
            raise RunError(_explain(made, name, error), files.failed)
        _publish_rows(staging / "results", files)
        paths.write_whole(files.provenance, _dump(stamp))
        _write(files.accepted, made)
        return files.accepted
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if files.failed.exists() or files.accepted.exists():
            files.running.unlink(missing_ok=True)


def committed(executed: Path) -> str:
    """The text of a committed `notebooks/NN_name.ipynb`: an accepted notebook without anything that changes from run to run."""
    import nbformat

    made = nbformat.read(executed, as_version=4)
    made.metadata = nbformat.from_dict({"kernelspec": dict(made.metadata.kernelspec), "language_info": {"name": "python"}})
    for cell in made.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    return nbformat.writes(made) + "\n"


def build_notebooks(wanted: list[str] | None = None) -> list[Path]:
    """Write `notebooks/<name>.ipynb` for the names in `wanted` (default all), executed at smoke size in an empty build folder.

    All notebooks up to the last one wanted are run, in reading order, because later ones read the rows of earlier ones.
    """
    known = notebook.names()
    for name in wanted or []:
        notebook.source_path(name)
    wanted = wanted or known
    made = []
    with tempfile.TemporaryDirectory(prefix="gencausal-") as folder, _environ({"GENCAUSAL_BUILD": folder}):
        texts = {name: committed(run(name)) for name in known[: known.index(max(wanted)) + 1]}
    for name in sorted(wanted):
        made.append(paths.write_whole(paths.root() / "notebooks" / f"{name}.ipynb", texts[name]))
    return made


class _Files:
    """Where one run writes."""

    def __init__(self, plan: notebook.Plan):
        build = paths.build(plan.profile)
        self.label = plan.name if plan.seed is None else f"{plan.name}-{plan.seed}"
        stage = plan.seed is not None
        folder = build / ("seeds" if stage else "notebooks")
        self.accepted = folder / f"{self.label}.ipynb"
        self.failed = folder / f"{self.label}.failed.ipynb"
        self.running = folder / f"{self.label}.running.ipynb"
        self.provenance = (folder if stage else build / "provenance") / f"{self.label}.json"
        self.results = folder if stage else build / "results"
        # The ledger notebook writes no rows of its own but the table of verdicts.
        self.rows = {f"{plan.name}.csv": f"{self.label}.csv"} | ({"claims.csv": "claims.csv"} if plan.name.endswith("_claims") and not stage else {})
        self.build, self.source = build, f"notebooks/{plan.name}.py"

    def clear(self) -> None:
        """Remove what an earlier run left, so that nothing old can pass for this run."""
        for path in (self.accepted, self.failed, self.running, self.provenance, *(self.results / target for target in self.rows.values())):
            path.unlink(missing_ok=True)
        self.build.mkdir(parents=True, exist_ok=True)
        for stale in self.build.glob(f".staging-{self.label}-????????"):
            shutil.rmtree(stale, ignore_errors=True)
        self.running.parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _environ(values: dict[str, str]):
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _execute(plan: notebook.Plan, target: Path):
    """The executed NotebookNode and the exception that stopped it (None if none). The file `target` grows with the run."""
    source = notebook.read(plan.name)  # first: it keeps the imports below quick
    import nbformat
    import papermill
    from traitlets.config import Config

    error = None
    try:
        papermill.execute_notebook(
            source, str(target), parameters=plan.injected, kernel_name="python3", progress_bar=sys.stderr.isatty(), log_output=False,
            cwd=str(paths.root()), start_timeout=60, autosave_cell_every=10, coalesce_streams=True, config=Config({"KernelManager": {"transport_encryption": "auto"}}))
    except papermill.PapermillExecutionError as raised:
        error = raised
    except Exception as raised:  # a dead kernel, a timeout: papermill then marks every cell as completed
        error = raised
        if not target.is_file():
            raise RunError(f"{plan.name} did not start: {type(raised).__name__}: {raised}", target) from raised
    made = nbformat.read(target, as_version=4)
    made.cells = [cell for cell in made.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    if error is not None and not isinstance(error, papermill.PapermillExecutionError):
        code = [cell for cell in made.cells if cell.cell_type == "code"]
        begun = [cell for cell in code if cell.metadata.papermill.get("start_time")]
        for cell in code:
            if cell not in begun:
                cell.metadata.papermill.status = "pending"
        if begun:
            begun[-1].metadata.papermill.status = "failed"
    return made, error


def _finish(made, files: _Files) -> None:
    """Make the notebook independent of this machine: fixed id for the injected cell, relative paths only."""
    for cell in made.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "params"
        if cell.cell_type == "code":
            cell.outputs = _scrubbed(cell.outputs)
    made.metadata.papermill.input_path = files.source
    made.metadata.papermill.output_path = f"{files.accepted.parent.name}/{files.accepted.name}"


def _scrubbed(value):
    """`value` with every string scrubbed, images left alone."""
    if isinstance(value, str):
        return provenance.scrub(value)
    if isinstance(value, list):
        return [_scrubbed(v) for v in value]
    if isinstance(value, dict):
        for key in value:
            if key not in ("image/png", "image/jpeg"):
                value[key] = _scrubbed(value[key])
    return value


def _state(cell) -> str:
    state = cell.metadata.get("papermill", {}).get("status")
    return state if state in STATES else "pending"


def _states(made) -> dict[str, int]:
    states = [_state(cell) for cell in made.cells if cell.cell_type == "code"]
    return {state: states.count(state) for state in STATES}


def _explain(made, name: str, error: Exception | None) -> str:
    """Which cell failed and with what, for the terminal."""
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    failed = next((c for c in code if _state(c) == "failed"), None) or next((c for c in code if _state(c) != "completed"), None)
    if failed is None:
        return f"{name} failed: {type(error).__name__}: {error}"
    lines = [line for line in failed.source.splitlines() if line.strip()] or ["(empty)"]
    where = f"{name} failed in code cell {code.index(failed) + 1} of {len(code)} (id {failed.id}): {lines[0]}"
    for output in failed.get("outputs", []):
        if output.output_type == "error":
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
            return f"{where}\n\n{trace.rstrip() or f'{output.ename}: {output.evalue}'}"
    detail = provenance.scrub(str(error)) if error is not None else f"the cell is still {_state(failed)}"
    return f"{where}\n\n{type(error).__name__ if error is not None else 'Incomplete'}: {detail}"


def _publish_rows(staged: Path, files: _Files) -> None:
    for path in sorted(staged.glob("*.csv")):
        if path.name not in files.rows:
            raise InputError(f"The notebook wrote rows as {path.name}; give open_results the notebook's own name.")
        paths.write_whole(files.results / files.rows[path.name], path.read_bytes())


def _write(path: Path, made) -> None:
    import nbformat

    nbformat.validate(made)
    paths.write_whole(path, nbformat.writes(made) + "\n")


def _dump(stamp: dict) -> str:
    return json.dumps(stamp, indent=1, ensure_ascii=False) + "\n"


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
