"""The workflow: what Snakemake would run, from a dry run; nothing is executed."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from gencausal import notebook, paths


def dry(build, *arguments: str) -> str:
    """Output of a dry run with an empty build folder."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "2", "--nolock", *arguments]
    done = subprocess.run(command, cwd=paths.root(), env=os.environ | {"GENCAUSAL_BUILD": str(build)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def calls(text: str) -> list[str]:
    return re.findall(r"^Shell command: (gencausal .*)$", text, re.M)


def test_smoke_runs_every_notebook_once_then_the_report(tmp_path):
    found = [call.split(" --threads")[0] for call in calls(dry(tmp_path, "--config", "profile=smoke"))]
    assert sorted(found[:-1]) == sorted(f"gencausal run {name} --profile smoke" for name in notebook.names())
    assert found[-1] == "gencausal report --profile smoke" and found.index("gencausal run 06_claims --profile smoke") == len(found) - 2


def test_seeds_are_wildcards(tmp_path):
    """Each seed of a notebook with several is a job of one thread, before the notebook itself."""
    names = [name for name in notebook.names() if len(notebook.plan(name, "full").parameters.get("seeds", [])) > 1]
    if not names:
        pytest.skip("no notebook with several seeds in the full profile yet")
    found = calls(dry(tmp_path, "--config", "profile=full"))
    for name in names:
        whole = next(i for i, call in enumerate(found) if call.startswith(f"gencausal run {name} --profile full --threads"))
        for seed in notebook.plan(name, "full").parameters["seeds"]:
            assert found.index(f"gencausal run {name} --profile full --seed {seed} --threads 1") < whole
        first, *others = (found.index(f"gencausal run {name} --profile full --seed {seed} --threads 1") for seed in notebook.plan(name, "full").parameters["seeds"])
        assert first < min(others), "what all seeds share, the first one makes"


def test_outputs_are_never_committed_files(tmp_path):
    """Snakemake does nothing, successfully, on a fresh clone that holds its outputs."""
    text = dry(tmp_path, "--config", "profile=smoke", "--quiet", "rules") + dry(tmp_path, "--config", "profile=smoke")
    outputs = [path.strip() for line in re.findall(r"^ +output: (.*)$", text, re.M) for path in line.split(",")]
    assert outputs and all(os.path.realpath(paths.root() / path).startswith(str(tmp_path.resolve()) + os.sep) for path in outputs)


def test_each_rule_reads_its_modules(tmp_path):
    inputs = {m[0]: m[1] for m in re.findall(r"^rule (\S+):\n +input: (.*)$", dry(tmp_path, "--config", "profile=smoke"), re.M)}
    assert "notebooks/06_claims.py" in inputs["06_claims"] and "src/gencausal/claims/verdicts.py" in inputs["06_claims"]
    assert "src/gencausal/data/acic.py" in inputs["00_overview"] and "src/gencausal/report" not in inputs["00_overview"]
    assert all(f"{name}.ipynb" in inputs["06_claims"] for name in notebook.names() if name != "06_claims")


def test_an_unknown_profile_stops_the_graph(tmp_path):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--nolock", "--config", "profile=lap"]
    done = subprocess.run(command, cwd=paths.root(), env=os.environ | {"GENCAUSAL_BUILD": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0 and "did you mean 'laptop'" in done.stdout + done.stderr


def test_execution_profiles_are_readable():
    folders = {path.parent.name for path in (paths.root() / "profiles").glob("*/config.yaml")}
    assert folders == {"local", "ci", "slurm", "kubernetes"}
    for folder in folders:
        assert yaml.safe_load((paths.root() / "profiles" / folder / "config.yaml").read_text())["rerun-incomplete"] is True
