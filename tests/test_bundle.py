"""The bundle: everything once, described as an RO-Crate, the same bytes each time and no folder of this machine."""

import gzip
import hashlib
import json
import re
import shutil
import zipfile

import made_study
import pytest

from gencausal import paths, report
from gencausal.report import bundle


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A published study with executed notebooks."""
    monkeypatch.delenv("GENCAUSAL_BUILD", raising=False)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    monkeypatch.setattr(report, "_git", lambda *arguments: [])
    made_study.make_root(tmp_path)
    (tmp_path / "notebooks" / "04_variational_causal_inference.py").unlink()
    for name in ("requirements/lock.txt", "LICENSE"):
        paths.write_whole(tmp_path / name, "text\n")
    paths.write_whole(tmp_path / "CITATION.cff", "title: A study\nabstract: Of things.\n")
    made_study.run("full")
    report.publish("full")
    return tmp_path


def read(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {entry.filename.removeprefix("gencausal/"): archive.read(entry) for entry in archive.infolist()}


def test_the_bundle_holds_reports_rows_notebooks_and_lock(study):
    files = read(bundle.build())
    assert {"README.md", "claims.yaml", "requirements/lock.txt", "config/full.yaml", "reports/index.html", "reports/provenance.json", "reports/results/claims.csv", "notebooks/02a_score_distillation.py",
            "executed/02a_score_distillation.ipynb", "ro-crate-metadata.json", "CITATION.cff"} <= set(files)
    assert files["reports/index.html"] == (study / "reports" / "index.html").read_bytes()
    together = b"".join(gzip.decompress(content) if name.endswith(".gz") else content for name, content in files.items()).decode()
    assert str(study) not in together and not re.search(r"(?<![\w.~])/(home|Users)/", re.sub(r"base64,[A-Za-z0-9+/=]+|\"image/png\": \"[^\"]*\"", "", together))


def test_every_file_and_run_is_described_and_every_reference_resolves(study):
    files = read(bundle.build())
    crate = json.loads(files["ro-crate-metadata.json"])
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"]) and entities["ro-crate-metadata.json"]["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    assert entities["./"]["name"] == "A study" and entities["./"]["datePublished"] == "2026-11-22"
    for name, content in files.items():
        if name != "ro-crate-metadata.json":
            assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest() and entities[name]["contentSize"] == str(len(content))
    run = entities["#run-02a_score_distillation"]
    assert [result["@id"] for result in run["result"]] == ["reports/02a_score_distillation.html", "reports/results/02a_score_distillation.csv.gz", "executed/02a_score_distillation.ipynb"]
    assert json.loads(run["description"])["profile"] == "full"

    def references(value):
        if isinstance(value, dict):
            yield from [value["@id"]] if set(value) == {"@id"} else [found for inner in value.values() for found in references(inner)]
        elif isinstance(value, list):
            yield from [found for inner in value for found in references(inner)]

    missing = {reference for entity in crate["@graph"] for reference in references(entity)} - set(entities) - {"https://w3id.org/ro/crate/1.1"}
    assert missing == set()


def test_the_same_study_makes_the_same_bytes_also_without_executed_notebooks(study):
    first = bundle.build().read_bytes()
    assert bundle.build().read_bytes() == first
    shutil.rmtree(study / "build")
    files = read(bundle.build())
    assert not [name for name in files if name.startswith("executed/")] and "reports/index.html" in files


def test_nothing_published_is_one_sentence(study):
    shutil.rmtree(study / "reports")
    with pytest.raises(ValueError, match="no published reports to bundle"):
        bundle.build()
