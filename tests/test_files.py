"""A reader's file: what comes back, and one sentence for everything that cannot be used."""

import builtins

import numpy as np
import pandas as pd
import pytest

from gencausal.checks import InputError
from gencausal.data import columns
from gencausal.data.files import choose, read_table


def made(n: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"age": rng.integers(20, 60, n), "site": rng.choice(["north", "south"], n), "score": rng.normal(size=n),
                         "drug": np.arange(n) % 2, "change": rng.normal(size=n)})


def write(folder, table: pd.DataFrame, **options):
    path = folder / "study.csv"
    table.to_csv(path, index=False, **options)
    return path


def test_a_file_comes_back_as_it_is(tmp_path):
    table = made()
    x, t, y = read_table(write(tmp_path, table), "drug", "change")
    assert list(x.columns) == ["age", "site", "score"] and np.array_equal(t, table["drug"]) and np.allclose(y, table["change"])
    assert (x["site"] == table["site"]).all() and np.allclose(x[["age", "score"]], table[["age", "score"]])
    assert list(read_table(str(write(tmp_path, table)), "drug", "change", ["score", "age"])[0].columns) == ["score", "age"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_a_byte_order_mark(tmp_path, separator):
    path = write(tmp_path, made(), sep=separator, encoding="utf-8-sig")
    assert list(read_table(path, "drug", "change")[0].columns) == ["age", "site", "score"]


def test_quoted_text_may_hold_separators_and_line_ends(tmp_path):
    table = made()
    table["site"] = np.where(table["site"] == "north", "north, by\nnorthwest", "south")
    assert (read_table(write(tmp_path, table), "drug", "change")[0]["site"] == table["site"]).all()


@pytest.mark.parametrize("change, message", [
    (lambda t: t.drop(columns="drug"), "study.csv has no column 'drug' .treatment.; its columns are age, site, score, change"),
    (lambda t: t.drop(columns="change"), "no column 'change' .outcome."),
    (lambda t: t.assign(drug=1), "one arm only"),
    (lambda t: t.assign(drug=np.r_[np.ones(3, int), np.zeros(77, int)]), r"an arm \(1\) of 3 units; each arm needs 10"),
    (lambda t: t.assign(drug=t["score"]), "takes 80 values, as a continuous treatment"),
    (lambda t: t.assign(change="high"), "outcome 'change', holds 'high', which is no number"),
    (lambda t: t.assign(change=2.5), "outcome 'change', is constant"),
    (lambda t: t.assign(change=np.arange(80) % 3 % 2), "values 0 and 1 only; IWDD models a continuous"),
    (lambda t: t.assign(age=t["age"].where(t.index > 11)), "missing values in 1 column: 'age' .12 of 80 rows, 15 %.; impute"),
    (lambda t: t.assign(age=t["age"].where(t.index > 11), change=t["change"].where(t.index > 3)), "in 2 columns: 'age' .*'change' .4 of 80 rows, 5 %"),
    (lambda t: t.head(49), "49 rows; IWDD needs at least 50"),
    (lambda t: t[["drug", "change"]], "no column beside 'drug' and 'change'"),
    (lambda t: t.assign(again=t["drug"]), "column 'again' is a copy of the treatment"),
    (lambda t: t.assign(again=t["change"]), "column 'again' is a copy of the outcome"),
    (lambda t: t.assign(score=t["score"].where(t.index > 0, np.inf)), "infinite values in column 'score'"),
])
def test_a_bad_table_is_one_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        read_table(write(tmp_path, change(made())), "drug", "change")
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".") and str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("arguments, message", [
    (dict(covariates=["age", "sex"]), "no column 'sex' .covariates."),
    (dict(covariates=["age", "drug"]), "covariates holds 'drug', which is the treatment"),
    (dict(covariates=["age", "change"]), "covariates holds 'change', which is the outcome"),
    (dict(covariates=["age", "age"]), "covariates names 'age' twice"),
    (dict(covariates="age"), "list of column names"),
    (dict(treatment="change"), "treatment and outcome are both 'change'"),
])
def test_bad_names_are_one_sentence(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path, made()), **({"treatment": "drug", "outcome": "change"} | arguments))


def test_broken_files_are_one_sentence(tmp_path):
    path = write(tmp_path, made())
    text = path.read_text()
    lines = text.splitlines()
    for content, message in (("", "is empty"), (lines[0] + "\n", "no rows"), (text[:-30], "fields in row 81 but 5 in its header"),
                             (text.replace("score", "age"), "two columns named 'age'"), ("\n".join([*lines[:9], lines[9] + ",7", *lines[10:]]), "6 fields in row 10"),
                             (text + '1,"north', "ends inside a quoted field")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_table(path, "drug", "change")
    path.write_bytes(text.encode().replace(b"north", b"n\xf6rd"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(path, "drug", "change")
    with pytest.raises(InputError, match="no file 'other.csv'"):
        read_table(tmp_path / "other.csv", "drug", "change")
    with pytest.raises(InputError, match="no file"):
        read_table(tmp_path, "drug", "change")
    (tmp_path / "study.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match="study.xlsx is no .csv"):
        read_table(tmp_path / "study.xlsx", "drug", "change")


def test_parquet_without_pyarrow_names_the_fix(tmp_path, monkeypatch):
    (tmp_path / "study.parquet").write_bytes(b"PAR1")
    original = builtins.__import__

    def absent(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match="needs pyarrow; install it .pip install pyarrow. or save the table as CSV"):
        read_table(tmp_path / "study.parquet", "drug", "change")


def test_parquet_comes_back_and_breaks_with_a_sentence(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not in the lock; with it, Parquet files are read")
    table, path = made(), tmp_path / "study.parquet"
    table.astype({"site": "category"}).to_parquet(path)
    x, t, y = read_table(path, "drug", "change")
    assert x["site"].dtype == "category" and np.array_equal(t, table["drug"]) and np.array_equal(y, table["change"])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        read_table(path, "drug", "change")


def test_a_frame_in_memory_takes_the_same_way():
    x, t, y = choose(made().rename(columns={"drug": 7}), "7", "change", name="ACIC")
    assert len(x) == len(t) == len(y) == 80
    with pytest.raises(InputError, match="dates or times"):
        choose(made().assign(day=pd.Timestamp("2024-01-01")), "drug", "change")


@pytest.mark.parametrize("values, index, labels", [
    (["b", "a"] * 10, [1, 0], ["a", "b"]),
    ([1.0, 0.0] * 10, [1, 0], [0, 1]),
    ([True, False] * 10, [1, 0], [False, True]),
    ([5, 2] * 10, [1, 0], [2, 5]),
    (pd.Series(["x", "y"] * 10, dtype="category"), [0, 1], ["x", "y"]),
    ([0.5, 1.0] * 10, [0, 1], [0.5, 1.0]),
])
def test_labels_of_arms_are_sorted(values, index, labels):
    found, seen = columns.arms(values)
    assert found[:2].tolist() == index and seen.tolist() == labels and type(seen.tolist()[0]) is type(labels[0])


@pytest.mark.parametrize("values, message", [(["a", 1] * 10, "mixes text"), (["a", None] * 10, "10 missing"), (np.array(["2024-01-01", "2024-01-02"] * 10, "M8[D]"), "labels of type")])
def test_bad_labels(values, message):
    with pytest.raises(InputError, match=message):
        columns.arms(values)


@pytest.mark.parametrize("column, kind", [([1, 2], "number"), ([1.5, 2], "number"), (["a", "b"], "levels"), ([True, False], "levels"), (pd.Categorical([1, 2]), "levels"),
                                          (pd.array([1, 2], dtype="Int64"), "number"), (pd.Series([1, 2], dtype=object), "number"), (pd.Series(["a", 1]), "levels")])
def test_kinds_of_columns(column, kind):
    assert columns.kind(pd.Series(column), "c") == kind
