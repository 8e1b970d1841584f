"""The public Cond-FiP: units, interventions, errors at the door and the export to DoWhy, for a network with random weights, as none of this depends on training."""

import dataclasses
import importlib.util
import warnings

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from gencausal import amortised, checks, seeding
from gencausal.cond_fip import REFLECTIONS
from gencausal.estimators import CondFiP, ExtrapolationWarning

GRAPH = nx.DiGraph([("dose", "level"), ("age", "level"), ("level", "effect"), ("age", "effect")])
NAMES = ["effect", "age", "dose", "level"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    recipe = dataclasses.replace(amortised.PRESETS["tiny"], steps=1, nodes=(4, 5), rows=(20, 200))
    trained, _ = amortised.train(recipe)
    model, rng = trained.modules["condfip"], seeding.generator(0, "move")
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=rng)
    return amortised.save(tmp_path_factory.mktemp("w") / "w.safetensors", model, recipe, trained, "random")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.standard_normal((60, 4)) * [1, 10, 0.1, 2] + [5, 40, 0, -3], columns=NAMES)


@pytest.fixture(scope="module")
def model(path, data):
    return CondFiP.from_checkpoint(path).infer(data, GRAPH)


def test_abduction_and_generation_are_inverse(model, data):
    """Counterfactuals without an intervention, or at the factual value, are the rows; a held column has its value exactly; what does not descend from it keeps its own."""
    pd.testing.assert_frame_equal(model.counterfactual(data, {}), data, atol=1e-4)
    pd.testing.assert_frame_equal(model.counterfactual(data, {"level": data["level"]}), data, atol=1e-4)
    after = model.counterfactual(data, {"level": 7.25})
    assert (after["level"] == 7.25).all()
    np.testing.assert_allclose(after[["age", "dose"]], data[["age", "dose"]], rtol=1e-4, atol=1e-4)
    assert (after["effect"] - data["effect"]).abs().max() > 1e-3


def test_noise_is_the_rest_of_the_mechanism(model, data):
    noise = model.noise(data)
    np.testing.assert_allclose(noise["effect"], data["effect"] - model.mechanism("effect", data))
    assert model.mechanism("age", data).nunique() == 1, "a root has one value"
    moved = data.assign(dose=data["dose"] + 1)
    assert (model.mechanism("effect", moved) == model.mechanism("effect", data)).all() and (model.mechanism("level", moved) != model.mechanism("level", data)).all()
    curves = model.curves("level")
    assert set(curves["parent"]) == {"dose", "age"} and len(curves) == 202 and model.curves("age").empty


def test_units_do_not_matter(path, data, model):
    """A table in other units (effect in thousandths, age shifted) gives the same model in those units."""
    other = data.assign(effect=1000 * data["effect"], age=data["age"] - 40)
    again = CondFiP.from_checkpoint(path).infer(other, GRAPH)
    np.testing.assert_allclose(again.noise(other)["effect"], 1000 * model.noise(data)["effect"], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(again.counterfactual(other, {"age": 5.0})["effect"], 1000 * model.counterfactual(data, {"age": 45.0})["effect"], rtol=1e-3)
    columns = NAMES[::-1]
    renamed = CondFiP.from_checkpoint(path).infer(data[columns], GRAPH)
    pd.testing.assert_frame_equal(renamed.noise(data), model.noise(data)[columns], atol=1e-4)


def test_reflected_columns_reflect_the_answers(path, data):
    """Eq. signs: columns in negative units have their noise negated, as one of the four reflections has just these turned; one pass differs."""
    codes = {name: 1 + sorted(NAMES).index(name) % 3 for name in NAMES}
    turned = [name for name in NAMES if bin(codes[name] & 1).count("1") % 2]
    assert 0 < len(turned) < 4
    signs = pd.Series({name: -1.0 if name in turned else 1.0 for name in NAMES})
    gaps = {}
    for count in (1, REFLECTIONS):
        made, mirrored = (CondFiP.from_checkpoint(path).infer(table, GRAPH, **({} if count > 1 else {"signs": 1})).noise(table) for table in (data, data * signs))
        gaps[count] = ((mirrored * signs - made).abs() / data.std()).to_numpy().max()
    assert gaps[REFLECTIONS] < 1e-4 < 1e-2 < gaps[1]
    with pytest.raises(checks.InputError, match="signs"):
        CondFiP.from_checkpoint(path).infer(data, GRAPH, signs=3)


def test_fresh_rows(model, data):
    """Noise of fresh rows lies within that of the table; an intervention on a node without children moves nothing else; seeds repeat."""
    made = model.sample(500, random_state=1)
    assert list(made.columns) == NAMES and len(made) == 500
    noise, seen = model.noise(made), model.noise(data)
    assert (noise.max() <= seen.max() + 1e-3 * data.std()).all() and (noise.min() >= seen.min() - 1e-3 * data.std()).all()
    held = model.intervene({"effect": 1.0}, 500, random_state=1)
    assert (held["effect"] == 1).all()
    pd.testing.assert_frame_equal(held[NAMES[1:]], made[NAMES[1:]], atol=1e-4)
    assert model.sample(5, random_state=3).equals(model.sample(5, random_state=3)) and not model.sample(5, random_state=3).equals(model.sample(5, random_state=4))


def test_wrong_input_is_refused(path, data, model):
    infer = CondFiP.from_checkpoint(path).infer
    cyclic = nx.DiGraph([*GRAPH.edges, ("effect", "dose")])
    for table, graph, words in ((data, cyclic, "cycle"), (data.drop(columns="dose"), GRAPH, "'dose'"), (data.assign(weight=1.0), GRAPH, "no node 'weight'"), (data.assign(dose=1.0), GRAPH, "constant column, 'dose'"),
                                (data.mask(data > 44), GRAPH, "nan"), (data[:5], GRAPH, "5 rows"), (data.to_numpy(), GRAPH, "DataFrame"), (data, list(GRAPH.edges), "DiGraph"), (data.assign(dose="high"), GRAPH, "numbers")):
        with pytest.raises(checks.InputError, match=words):
            infer(table, graph)
    with pytest.raises(checks.InputError, match="do must be one of"):
        model.intervene({"height": 1.0}, 3)
    with pytest.raises(checks.InputError, match="finite"):
        model.counterfactual(data, {"dose": [1.0, 2.0]})
    with pytest.raises(checks.InputError, match="lacks the column 'age'"):
        model.noise(data.drop(columns="age"))
    with pytest.raises(checks.InputError, match="parent of 'level'"):
        model.mechanism("level", data[["age"]])


def test_tables_beyond_the_training_are_told(path, data):
    """Silent within what was seen (4 to 5 columns, 20 to 200 rows); a warning with the measured errors beyond."""
    estimator = CondFiP.from_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.infer(data, GRAPH)
    with pytest.warns(ExtrapolationWarning, match="rows is 300, above.*none"):
        estimator.infer(pd.concat([data] * 5, ignore_index=True), GRAPH)
    estimator.meta["measured"] = {"rff_in_d20_n100": 0.21}
    wide = data.assign(a=data["age"] ** 2, b=data["dose"] ** 2)
    graph = GRAPH.copy()
    graph.add_nodes_from("ab")
    with pytest.warns(ExtrapolationWarning, match="columns is 6.*rff_in_d20_n100 0.210"):
        estimator.infer(wide, graph)


@pytest.mark.skipif(importlib.util.find_spec("dowhy") is None, reason="needs dowhy, of the test extra")
def test_export_to_dowhy(model, data):
    """DoWhy's own counterfactuals and interventions with the exported mechanisms are ours."""
    from dowhy import gcm

    exported = model.to_dowhy(data)
    theirs = gcm.counterfactual_samples(exported, {"level": lambda x: 1.5}, observed_data=data)[NAMES]
    np.testing.assert_allclose(theirs, model.counterfactual(data, {"level": 1.5}), rtol=1e-3, atol=1e-3)
    drawn = gcm.interventional_samples(exported, {"dose": lambda x: 0.2}, num_samples_to_draw=50)
    assert (drawn["dose"] == 0.2).all() and len(drawn) == 50
