"""README and CONTRIBUTING say what is there: their code runs, their commands parse, their files and links exist, their verdicts are those of the rows."""

import dataclasses
import re
import shlex
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from gencausal import cli, notebook, paths
from gencausal.data.cell_worlds import cell_world
from gencausal.estimators.vci import CONFIG

FILES = ("README.md", "CONTRIBUTING.md")
SIZES = {  # the readers' blocks at the size of a test: nothing but sizes is replaced
    "IWDD(members=3)": "IWDD(members=2, teacher_rounds=20, distillation_rounds=10, width=16, n_draws=20, device='cpu')",
    "VCI()": "VCI(dataclasses.replace(CONFIG, rounds=6, width=8, latent=4, embedding=8), device='cpu')",
    "GuidedCounterfactuals(graph)": "GuidedCounterfactuals(graph, rounds=6, guide_rounds=6, width=16, steps=2, device='cpu')",
}


def read(name):
    return (paths.root() / name).read_text(encoding="utf-8")


def blocks(text, language):
    return [re.sub(rf"^ {{{len(indent)}}}", "", block, flags=re.M) for indent, block in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.M | re.S)]


def stand_ins():
    """A confounded table with a category, images whose brightness follows a square's side, and cells of three types under two treatments."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"age": rng.normal(size=200), "sex": rng.choice(["f", "m"], 200)})
    t = rng.integers(0, 2, 200)
    factors = pd.DataFrame({"thickness": rng.uniform(1.0, 5.0, 60)})
    factors["intensity"] = 40 * factors["thickness"] + rng.normal(0, 5, 60)
    images = np.zeros((60, 16, 16), np.float32)
    for image, (thickness, intensity) in zip(images, factors.to_numpy()):
        image[4 : 4 + int(round(2 * thickness)), 3:13] = np.clip(intensity / 255, 0, 1)
    table = pd.DataFrame({"age": rng.normal(size=60)})
    table["dose"] = table["age"] + rng.normal(size=60)
    table["response"] = table["dose"] - table["age"] + rng.normal(size=60)
    made = cell_world(train=200, test=1, genes=8)
    cells = anndata.AnnData(made.outcome - made.outcome.min(), obs=pd.DataFrame({"treatment": [("control", "A", "B")[k] for k in made.condition], "type": [made.strata[k] for k in made.stratum]}, index=[f"cell {i}" for i in range(made.n)]))
    return {"X": x, "T": t, "Y": x["age"].to_numpy() + t + rng.normal(size=200), "images": images, "factors": factors, "adata": cells, "table": table, "dataclasses": dataclasses, "CONFIG": CONFIG}


@pytest.mark.parametrize("block", blocks(read("README.md"), "python"), ids=["IWDD", "GuidedCounterfactuals", "VCI", "CondFiP"])
def test_the_readers_code_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for written, small in SIZES.items():
        block = block.replace(written, small)
    names = stand_ins()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    if "fit(" in block:
        assert (tmp_path / "model.safetensors").is_file() and "rounds=" in block, "the sizes of the block were not found: it would train for minutes"


@pytest.mark.parametrize("name", FILES)
def test_the_readers_commands_parse(name):
    """Every `gencausal` line and every `gencausal` in backticks is a command with options that it knows; every make target exists."""
    text = read(name)
    lines = [line.partition("#")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()] + re.findall(r"`((?:gencausal|make) [^`<]*)`", text)
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.M))
    assert [line for line in lines if line.startswith("gencausal")]
    for line in filter(None, lines):
        program, *arguments = shlex.split(line)
        if program == "make":
            assert arguments[0] in targets, line
            continue
        assert program == "gencausal", line
        arguments = [notebook.names()[0] if argument in ("NAME", "NAMES") else argument for argument in arguments]
        made = cli._parser().parse_args(arguments)
        if arguments[0] == "run":
            for one in made.name:
                notebook.plan(one, made.profile, None, dict(notebook.parse_setting(setting) for setting in made.set))


@pytest.mark.parametrize("name", FILES)
def test_links_and_files_exist(name):
    text = read(name)
    for target in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`((?:tests|data|reports|requirements|docs)/[\w./]+|[\w]+\.(?:md|cff|yaml|toml))`", text):
        assert target.startswith("http") or target in ("rerun.html",) or (paths.root() / target).exists(), target


def test_readme_opens_with_three_sentences_and_two_commands():
    opening = read("README.md").split("\n\n", 2)
    assert len(re.findall(r"[a-z)]\.(?:\s|$)", opening[1])) == 3 and blocks(opening[2].split("\n\n")[0] + "\n", "sh")[0].splitlines()[1].startswith("make test")


def test_contributing_is_one_page():
    assert len(read("CONTRIBUTING.md").splitlines()) <= 60


def test_the_citation_is_complete():
    found = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(found) and f'version = "{found["version"]}"' in read("pyproject.toml")
