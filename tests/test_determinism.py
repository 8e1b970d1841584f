"""The smoke chain twice, each time in an empty build folder: the same bytes, save for what a clock writes."""

import pytest

from gencausal import notebook, run

# The distillation notebook rests on the same training loop and is run again by nbval; leaving it out keeps this within a minute.
CHAIN = [name for name in ("00_overview", "01_diffusion_pretraining", "06_claims") if name in notebook.names()]
TIMED = (",seconds,", ",seconds_training,")


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """`{file: content}` of two runs: rows without timed metrics, verdicts, and the notebooks as they would be committed."""
    found = []
    for number in (1, 2):
        folder = tmp_path_factory.mktemp(f"build{number}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GENCAUSAL_BUILD", str(folder))
            files = {f"{name}.ipynb": run.committed(run.run(name)) for name in CHAIN}
            for path in sorted((folder / "smoke" / "results").glob("*.csv")):
                files[path.name] = "\n".join(line for line in path.read_text().splitlines() if not any(metric in line for metric in TIMED))
        found.append(files)
    return found


def test_two_runs_write_the_same_files(twice):
    first, second = twice
    assert set(first) == set(second) and "claims.csv" in first and "00_overview.ipynb" in first


def test_two_runs_write_the_same_bytes(twice):
    first, second = twice
    assert [name for name in first if first[name] != second[name]] == []


def test_another_parameter_gives_other_bytes(tmp_path, monkeypatch, twice):
    """The comparison can fail: one setting fewer changes the executed notebook."""
    monkeypatch.setenv("GENCAUSAL_BUILD", str(tmp_path))
    assert run.committed(run.run("00_overview", settings={"settings": [1, 2]})) != twice[0]["00_overview.ipynb"]
