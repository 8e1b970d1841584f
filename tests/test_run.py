"""The runner: parameters are checked before anything runs, and only a notebook that completed leaves accepted files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from gencausal import cli, notebook, paths, run
from gencausal.checks import InputError

HEADER = "# ---\n# jupyter:\n#   kernelspec:\n#     display_name: Python 3\n#     language: python\n#     name: python3\n# ---\n\n"
PARAMETERS = '# %% tags=["parameters"]\nprofile = "smoke"\nseeds = [0]\nrate = 0.1  # learning rate\nsteps = 5\nfail = ""\n\n'
BODY = """# %%
import os
print(profile, seeds, rate, steps, os.path.basename(os.getcwd()), os.environ.get("OMP_NUM_THREADS"))
print(os.environ["IPYTHONDIR"] + " " + os.getcwd() + "/data")

# %%
os.makedirs(os.environ["GENCAUSAL_RESULTS"], exist_ok=True)
with open(os.environ["GENCAUSAL_RESULTS"] + "/01_toy.csv", "w") as file:
    file.write(f"seeds,{seeds}")

# %%
if fail == "error":
    raise RuntimeError("told to fail")
if fail == "die":
    os._exit(1)
if fail == "wait":
    import time; time.sleep(60)

# %%
print("end")
"""
TOY = HEADER + PARAMETERS + BODY


def make_study(folder: Path) -> Path:
    """A study with one small notebook, `01_toy`."""
    real = paths.root()
    for name in ("claims.yaml", "pyproject.toml", "requirements/lock.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((real / name).read_bytes())
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "01_toy.py").write_text(TOY)
    (folder / "config").mkdir()
    (folder / "config" / "laptop.yaml").write_text("01_toy: {rate: 1e-3, steps: 7}\n")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The toy study after four runs: laptop with settings, a seed stage, a failing run and a run whose kernel died."""
    folder = make_study(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "root", lambda: folder)
        patch.delenv("GENCAUSAL_BUILD", raising=False)
        accepted = run.run("01_toy", "laptop", settings={"seeds": [1, 2]}, threads=1)
        stage = run.run("01_toy", "laptop", seed=3)
        run.run("01_toy")
        with pytest.raises(run.RunError) as error:
            run.run("01_toy", settings={"fail": "error"})
        yield {"root": folder, "accepted": accepted, "stage": stage, "error": error.value, "build": folder / "build"}


def test_accepted_run_has_its_parameters_and_files(study):
    made = nbformat.read(study["accepted"], as_version=4)
    assert study["accepted"] == study["build"] / "laptop" / "notebooks" / "01_toy.ipynb"
    injected = next(cell for cell in made.cells if cell.id == "params")
    assert injected.metadata.tags == ["injected-parameters"]
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.metadata.papermill.status for cell in code] == ["completed"] * 6
    printed = code[2].outputs[0].text
    assert printed.startswith(f"laptop [1, 2] 0.001 7 {study['root'].name} 1\n"), "config, --set, --threads and the root as working folder"
    assert (study["build"] / "laptop" / "results" / "01_toy.csv").read_text() == "seeds,[1, 2]"


def test_accepted_run_names_no_path_of_this_machine(study):
    for path in (study["build"] / "laptop").rglob("*"):
        if path.is_file():
            text = path.read_text()
            for private in (str(study["root"]), str(Path.home()) + "/", sys.prefix, "ipykernel_"):
                assert private not in text, f"{private} stands in {path.name}"
    assert "./data" in nbformat.read(study["accepted"], as_version=4).cells[2].outputs[0].text
    assert nbformat.read(study["accepted"], as_version=4).metadata.papermill.input_path == "notebooks/01_toy.py"


def test_provenance_of_a_run(study):
    stamp = json.loads((study["build"] / "laptop" / "provenance" / "01_toy.json").read_text())
    assert stamp["status"] == "completed" and stamp["cells"] == {"completed": 6, "failed": 0, "pending": 0, "running": 0}
    assert stamp["parameters"] == {"profile": "laptop", "seeds": [1, 2], "rate": 0.001, "steps": 7, "fail": ""} and stamp["seeds"] == [1, 2]
    assert stamp["cpu_seconds"] > 0 and stamp["peak_memory_mib"] > 20 and 0 < stamp["wall_seconds"] < 60
    assert stamp["run_id"] == notebook.plan("01_toy", "laptop", settings={"seeds": [1, 2]}).run_id


def test_seed_stage_keeps_to_its_own_files(study):
    seeds = study["build"] / "laptop" / "seeds"
    assert {path.name for path in seeds.iterdir()} == {"01_toy-3.ipynb", "01_toy-3.csv", "01_toy-3.json"}
    assert (seeds / "01_toy-3.csv").read_text() == "seeds,[3]"
    assert (study["build"] / "laptop" / "results" / "01_toy.csv").read_text() == "seeds,[1, 2]", "the stage does not touch the run's rows"
    assert study["stage"] == seeds / "01_toy-3.ipynb"


def test_failing_run_leaves_nothing_accepted(study):
    """The earlier accepted smoke run must be gone too, else its rows would pass for those of the failed one."""
    smoke = study["build"] / "smoke"
    found = {path.relative_to(smoke).as_posix() for path in smoke.rglob("*") if path.is_file()}
    assert found == {"notebooks/01_toy.failed.ipynb", "provenance/01_toy.json"}
    stamp = json.loads((smoke / "provenance" / "01_toy.json").read_text())
    assert stamp["status"] == "failed" and stamp["cells"] == {"completed": 4, "failed": 1, "pending": 1, "running": 0}
    failed = nbformat.read(smoke / "notebooks" / "01_toy.failed.ipynb", as_version=4)
    assert [c.id for c in failed.cells if c.id != "params"] == [c.id for c in notebook.read("01_toy").cells], "no banner cells"
    message = str(study["error"])
    assert "code cell 5 of 6" in message and "RuntimeError: told to fail" in message and notebook.read("01_toy").cells[-2].id in message
    assert study["error"].path == smoke / "notebooks" / "01_toy.failed.ipynb"


def test_dead_kernel_is_a_failure(study):
    """papermill marks every cell as completed when the kernel dies; the runner must not."""
    with pytest.raises(run.RunError, match="code cell 5 of 6"):
        run.run("01_toy", settings={"fail": "die"})
    assert json.loads((study["build"] / "smoke" / "provenance" / "01_toy.json").read_text())["cells"] == {"completed": 4, "failed": 1, "pending": 1, "running": 0}
    assert not (study["build"] / "smoke" / "notebooks" / "01_toy.ipynb").exists()
    assert not (study["build"] / "smoke" / "results" / "01_toy.csv").exists()


def test_killed_run_is_not_accepted_and_runs_again(study):
    program = f"from pathlib import Path; from gencausal import paths, run; paths.root = lambda: Path({str(study['root'])!r}); run.run('01_toy', 'laptop', settings={{'fail': 'wait'}})"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running = study["build"] / "laptop" / "notebooks" / "01_toy.running.ipynb"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and '"status": "running"' not in (running.read_text() if running.exists() else ""):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert running.exists() and not study["accepted"].exists() and not (study["build"] / "laptop" / "results" / "01_toy.csv").exists()
    assert run.run("01_toy", "laptop").exists()
    assert not running.exists() and not list((study["build"] / "laptop").glob(".staging*")), "what the killed run left is gone"


def test_committed_text_holds_nothing_volatile(study):
    text = run.committed(study["build"] / "laptop" / "notebooks" / "01_toy.ipynb")
    made = nbformat.reads(text, as_version=4)
    assert "papermill" not in text.replace("papermill-", "") and "execution\"" not in text and "version\": \"3" not in text
    assert all(cell.execution_count for cell in made.cells if cell.cell_type == "code")
    assert made.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize(("settings", "words"), [
    ({"stps": 3}, ["stps", "did you mean 'steps'"]),
    ({"steps": 2.5}, ["steps", "2.5 (float)", "give int"]),
    ({"steps": True}, ["steps", "bool", "give int"]),
    ({"steps": None}, ["steps", "None"]),
    ({"rate": "fast"}, ["rate", "give float"]),
    ({"rate": float("nan")}, ["rate", "finite"]),
    ({"seeds": 3}, ["seeds", "give a list like [0]"]),
    ({"seeds": [1, "2"]}, ["seeds", "'2' (str)"]),
    ({"profile": "full"}, ["--profile"]),
])
def test_wrong_parameter_is_one_sentence_before_anything_runs(study, settings, words):
    before = sorted((study["build"]).rglob("*"))
    with pytest.raises(InputError) as error:
        run.run("01_toy", "laptop", settings=settings)
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message and message.endswith(".")
    assert sorted(study["build"].rglob("*")) == before, "nothing was touched"


def test_wrong_names_and_config_are_refused(study, monkeypatch):
    for arguments, words in [(("01_tiy", "smoke"), "did you mean '01_toy'"), (("../01_toy", "smoke"), "no notebook"), (("01_toy", "laptp"), "did you mean 'laptop'"), (("01_toy", "paper"), "config/paper.yaml is missing")]:
        with pytest.raises(InputError, match=words):
            notebook.plan(*arguments)
    config = study["root"] / "config" / "full.yaml"
    for text, words in [("01_tyo: {}\n", "no block '01_toy' .did you mean '01_tyo'"), ("01_toy: {stepz: 1}\n", "no parameter 'stepz' .did you mean 'steps'"),
                        ("01_toy: [1]\n", "must map"), ("01_toy: {profile: full}\n", "--profile alone"), ("01_toy: {", "not valid YAML")]:
        config.write_text(text)
        with pytest.raises(InputError, match=words):
            notebook.plan("01_toy", "full")
    config.unlink()


def test_values_take_the_type_of_the_default(study):
    plan = notebook.plan("01_toy", "laptop", settings={"rate": 1})
    assert plan.parameters["rate"] == 1.0 and type(plan.parameters["rate"]) is float
    assert notebook.plan("01_toy", "laptop").parameters["rate"] == 0.001, "YAML 1.1 reads 1e-3 as text"
    assert notebook.plan("01_toy", "smoke").injected == {}, "smoke is the defaults"
    assert notebook.plan("01_toy", "laptop").injected == {"profile": "laptop", "rate": 0.001, "steps": 7}
    assert notebook.parse_setting("seeds=[1, 2]") == ("seeds", [1, 2]) and notebook.parse_setting("fail=a=b") == ("fail", "a=b")
    for text in ("steps", "=3", "a b=1"):
        with pytest.raises(InputError, match="key=value"):
            notebook.parse_setting(text)


def test_run_id_follows_name_parameters_and_source(study):
    ids = {notebook.plan("01_toy", "smoke").run_id, notebook.plan("01_toy", "laptop").run_id, notebook.plan("01_toy", "smoke", settings={"steps": 6}).run_id}
    assert len(ids) == 3 and notebook.plan("01_toy", "smoke").run_id in ids and all(len(i) == 12 for i in ids)
    source = study["root"] / "notebooks" / "01_toy.py"
    source.write_text(TOY + "\n# %%\n1 + 1\n")
    assert notebook.plan("01_toy", "smoke").run_id not in ids
    source.write_text(TOY)


def test_cell_ids_depend_on_the_text_alone():
    first, again, other = notebook.parse(TOY, "01_toy"), notebook.parse(TOY, "01_toy"), notebook.parse(TOY, "02_toy")
    assert [c.id for c in first.cells] == [c.id for c in again.cells]
    assert not {c.id for c in first.cells} & {c.id for c in other.cells}
    assert nbformat.writes(first) == nbformat.writes(again)
    nbformat.validate(first)


@pytest.mark.parametrize(("cell", "words"), [
    ("steps = 2 * 3", "not a literal"), ("import os", "more than assignments"), ("a, b = 1, 2", "something else than a name"), ("x = None", "is None"),
    ("x = {'a': 1}", "is {'a': 1}"), ("x = [[1]]", "list of one"), ("x = (1, 2)", "is .1, 2."), ("x = [1, 'a']", "list of one"), ("x: str | None = None", "is None"),
])
def test_parameters_cell_holds_flat_literals(cell, words):
    text = HEADER + f'# %% tags=["parameters"]\nprofile = "smoke"\n{cell}\n'
    with pytest.raises(InputError, match=words):
        notebook.parameters(notebook.parse(text, "x"), "x")


def test_parameters_cell_is_there_once_with_a_profile_and_a_kernel():
    cell = '# %% tags=["parameters"]\nprofile = "smoke"\nx: float = -1.5\ny = []\n'
    assert notebook.parameters(notebook.parse(HEADER + cell, "x"), "x") == {"profile": "smoke", "x": -1.5, "y": []}
    for text, words in [(HEADER + cell + "\n" + cell, "2 cells"), (HEADER + "# %%\n1\n", "0 cells"), (HEADER + '# %% tags=["parameters"]\nx = 1\n', "lacks 'profile'")]:
        with pytest.raises(InputError, match=words):
            notebook.parameters(notebook.parse(text, "x"), "x")
    with pytest.raises(InputError, match="kernel"):
        notebook.parse(cell, "x")


def test_command_line_refuses_before_running(study, capsys):
    assert cli.main(["run", "01_toy", "--set", "stps=3"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert cli.main(["run", "01_toy", "--profile", "huge"]) == 2
    assert cli.main(["run", "01_toy", "--threads", "0"]) == 2
    assert cli.main(["run", "01_toy", "--seed", "1", "--set", "broken"]) == 2
    assert cli.main(["compare", "--profile", "lap"]) == 2
    assert cli.main(["data", "list", "acic2016"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_command_line_reports_a_failing_cell(study, capsys):
    assert cli.main(["run", "01_toy", "--set", "fail=error"]) == 1
    error = capsys.readouterr().err
    assert "code cell 5 of 6" in error and "told to fail" in error and "01_toy.failed.ipynb" in error and str(Path.home()) + os.sep not in error
