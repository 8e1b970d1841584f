"""The committed notebooks: derived from their sources, executed, readable, and the same when executed again."""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from gencausal import notebook, paths, provenance

FOLDER = paths.root() / "notebooks"
NAMES = notebook.names()
each = pytest.mark.parametrize("name", NAMES)


def committed(name: str) -> nbformat.NotebookNode:
    path = FOLDER / f"{name}.ipynb"
    assert path.is_file(), f"notebooks/{name}.ipynb is missing; run: make notebooks"
    return nbformat.read(path, as_version=4)


def outputs(name: str):
    return [output for cell in committed(name).cells if cell.cell_type == "code" for output in cell.outputs]


def texts(name: str) -> list[str]:
    """All text that a reader sees in the outputs."""
    shown = []
    for output in outputs(name):
        data = output.get("data", {"text": output.get("text", "")})
        shown += ["".join(value) for mime, value in data.items() if mime.startswith("text")]
    return shown


@each
def test_source_and_notebook_agree(name):
    source, made = notebook.read(name), committed(name)
    assert [(c.id, c.cell_type, c.source) for c in source.cells] == [(c.id, c.cell_type, c.source) for c in made.cells], "run: make notebooks"
    nbformat.validate(made)


@each
def test_every_code_cell_was_executed_in_order(name):
    """nbval compares nothing for a cell without a count."""
    counts = [cell.execution_count for cell in committed(name).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_committed_text_is_free_of_the_machine(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    document = json.loads(text)
    assert set(document["metadata"]) == {"kernelspec", "language_info"} and document["metadata"]["language_info"] == {"name": "python"}
    assert all(set(cell["metadata"]) <= {"tags"} for cell in document["cells"])
    assert provenance.scrub(text) == text and "/home/" not in text and "/root/" not in text
    assert not [output for output in outputs(name) if output.get("name") == "stderr" or output.output_type == "error"], "a warning or an error was printed"


@each
def test_notebooks_define_nothing(name):
    for cell in notebook.read(name).cells:
        if cell.cell_type == "code":
            wrong = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
            assert not wrong, f"line {wrong[0].lineno} defines {wrong[0].name}; put it into a module, where a test reaches it"


@each
def test_every_figure_has_alt_text(name):
    for output in outputs(name):
        if "image/png" in output.get("data", {}):
            assert len(output.metadata.get("image/png", {}).get("alt", "").split()) >= 4


@each
def test_numbers_have_at_most_four_significant_digits(name):
    """Other machines agree on no more, and nbval compares text."""
    long = [number for text in texts(name) for number in re.findall(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])", re.sub(r"arXiv \d+\.\d+", "", text))
            if len(re.sub(r"e.*|\.", "", number).lstrip("0")) > 4]
    assert not long, "round what is displayed (gencausal.figures.table)"


@each
def test_parameters_are_flat_and_known_to_every_profile(name):
    """The tagged cell is readable; each config block sets only names that it has."""
    assert notebook.parameters(notebook.read(name), name)["profile"] == "smoke"
    for profile in notebook.PROFILES:
        assert notebook.plan(name, profile).parameters["profile"] == profile


@pytest.mark.parametrize("profile", [p for p in notebook.PROFILES if p != "smoke"])
def test_config_has_one_block_a_notebook(profile):
    blocks = yaml.safe_load((paths.root() / "config" / f"{profile}.yaml").read_text())
    assert set(NAMES) <= set(blocks)
    if unwritten := set(blocks) - set(NAMES):
        pytest.skip(f"no notebook {', '.join(sorted(unwritten))} yet")


def test_there_is_no_notebook_without_a_source():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} <= set(NAMES)


def test_notebooks_run_again_with_the_same_outputs(tmp_path):
    """nbval, strict, in reading order and one empty build folder, because later notebooks read the rows of earlier ones."""
    environment = os.environ | {"GENCAUSAL_BUILD": str(tmp_path / "build"), "IPYTHONDIR": str(tmp_path / "ipython"), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(paths.root() / "tests" / "nbval_sanitize.cfg"),
               "-q", "-p", "no:cacheprovider", *(str(FOLDER / f"{name}.ipynb") for name in NAMES)]
    done = subprocess.run(command, cwd=paths.root(), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cells = sum(cell.cell_type == "code" for name in NAMES for cell in committed(name).cells)
    assert f"{cells} passed" in done.stdout, "every code cell was compared"


def test_nbval_sees_a_changed_output(tmp_path):
    """The comparison can fail: one printed number is altered."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    for printed in ("0.25", "0.26"):
        cell = nbformat.v4.new_code_cell("print(1 / 4)", execution_count=1, outputs=[nbformat.v4.new_output("stream", name="stdout", text=f"{printed}\n")])
        made.cells = [cell]
        nbformat.write(made, tmp_path / "x.ipynb")
        command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "no:cacheprovider", str(tmp_path / "x.ipynb")]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")}, capture_output=True, text=True)
        assert (done.returncode == 0) == (printed == "0.25"), done.stdout[-2000:]
