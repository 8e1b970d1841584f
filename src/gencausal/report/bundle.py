"""The study as one archive with RO-Crate 1.1 metadata, to attach to a review (https://w3id.org/ro/crate/1.1).

It holds the published reports with their rows and run records, the sources of the notebooks and, where they were run here, the executed ones, the
ledger, the parameters and the locked environment. `ro-crate-metadata.json` describes every file with size and SHA-256 and every run as a
CreateAction from its notebook to its page and rows. Times inside are those of the runs, so that the same study makes the same bytes.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import yaml

from gencausal import paths
from gencausal.report import clean, restored

CRATE = "https://w3id.org/ro/crate/1.1"
TYPES = {".html": "text/html", ".csv": "text/csv", ".gz": "application/gzip", ".json": "application/json", ".py": "text/x-python", ".ipynb": "application/x-ipynb+json", ".yaml": "application/yaml", ".yml": "application/yaml", ".md": "text/markdown", ".txt": "text/plain", ".cff": "application/yaml", ".toml": "application/toml", ".svg": "image/svg+xml"}
FILES = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "claims.yaml", "summaries.yaml", "pyproject.toml", "environment.yml", "Makefile", "Snakefile")
FOLDERS = (("reports", "*"), ("reports/results", "*"), ("notebooks", "*.py"), ("config", "*.yaml"), ("requirements", "*"), ("docs", "*.svg"))


def build() -> Path:
    """Write `build/gencausal-bundle.zip` and return its path. ValueError before anything is published."""
    published = restored.read_published()
    if not published["notebooks"]:
        raise ValueError("There are no published reports to bundle: reports/provenance.json is missing; run `gencausal publish` first.")
    files = contents()
    files["ro-crate-metadata.json"] = (json.dumps(metadata(files, published["notebooks"]), indent=1, sort_keys=True) + "\n").encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"gencausal/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return paths.write_whole(paths.build(restored.PROFILE).parent / "gencausal-bundle.zip", made.getvalue())


def contents() -> dict[str, bytes]:
    """Name in the archive to content, in no case with a folder of this machine."""
    root = paths.root()
    found = [root / name for name in FILES] + [file for folder, pattern in FOLDERS for file in sorted((root / folder).glob(pattern))]
    files = {file.relative_to(root).as_posix(): file.read_bytes() for file in found if file.is_file() and not file.name.startswith(".")}
    for file in sorted((paths.build(restored.PROFILE) / "notebooks").glob("[0-9][0-9]*_*.ipynb")):
        if "." not in file.stem:
            executed = clean.every_text(json.loads(file.read_text(encoding="utf-8")))
            files[f"executed/{file.name}"] = (json.dumps(executed, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def metadata(files: dict[str, bytes], records: dict[str, dict]) -> dict:
    """RO-Crate metadata of `files` (by name) and of the runs that made the published pages."""
    citation = yaml.safe_load(files["CITATION.cff"]) if "CITATION.cff" in files else {}
    graph = [{"@id": name, "@type": "File", "name": name, "contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest(), "encodingFormat": TYPES.get(Path(name).suffix, "text/plain")}
             for name, content in sorted(files.items())]
    runs = []
    for name, record in sorted(records.items()):
        results = [result for result in (f"reports/{name}.html", f"reports/results/{name}.csv.gz", f"executed/{name}.ipynb") if result in files]
        told = {key: record.get(key) for key in ("profile", "commit", "seeds", "device", "torch", "python", "platform", "threads", "wall_seconds", "peak_memory_mib", "run_id")}
        runs.append({"@id": f"#run-{name}", "@type": "CreateAction", "name": f"Run of {name}", "instrument": {"@id": f"notebooks/{name}.py"}, "startTime": record.get("started"),
                     "object": [{"@id": "requirements/lock.txt"}, {"@id": f"config/{record.get('profile')}.yaml"}], "result": [{"@id": result} for result in results],
                     "actionStatus": "http://schema.org/CompletedActionStatus" if record.get("status") == "completed" else "http://schema.org/FailedActionStatus",
                     "description": json.dumps(told, sort_keys=True)})
    dates = sorted(str(record["started"]) for record in records.values() if record.get("started"))
    dataset = {"@id": "./", "@type": "Dataset", "name": citation.get("title", "GenCausal"), "description": " ".join(str(citation.get("abstract", "Published reports, rows, notebooks and run records.")).split()),
               "datePublished": dates[-1][:10] if dates else "", "license": {"@id": "LICENSE"}, "hasPart": [{"@id": entity["@id"]} for entity in graph], "mentions": [{"@id": run["@id"]} for run in runs]}
    about = {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "conformsTo": {"@id": CRATE}, "about": {"@id": "./"}}
    return {"@context": [f"{CRATE}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}], "@graph": [about, dataset, *graph, *runs]}
