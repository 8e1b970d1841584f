"""The exact oracle against enumeration, and what it guards: do() and counterfactuals of `scm`, of `data.scms` and of Cond-FiP on noise of finite law (reading list #13)."""

import itertools

import numpy as np
import pytest
import torch

from gencausal import checks, scm, seeding
from gencausal.cond_fip import CondFiP, Sizes, fixed_point, inference, steps_needed
from gencausal.data import scms
from gencausal.data.finite_scms import Box, FiniteSCM, FunctionalSCM, front_door, random_front_door

SMOKING = np.array([0.5, 0.1, 0.01, 0.02, 0.1, 0.05, 0.02, 0.2]).reshape(2, 2, 2)


def test_smoking_and_cancer():
    """C13a: P(C given S) = .190476, .675676 is not P(C given do S) = .25347763, .54229730."""
    seen = SMOKING.sum(1) / SMOKING.sum((1, 2))[:, None]
    assert seen[:, 1] == pytest.approx([0.190476, 0.675676], abs=1e-6)
    assert front_door(SMOKING)[:, 1] == pytest.approx([0.25347763, 0.54229730], abs=1e-8)


def test_the_comb_is_the_cut_diagram():
    """C13b, Eq. comb: on 200 random front-door SCMs the effect from the observed joint is that of surgery on the true diagram, to 1e-10."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        model = random_front_door(rng, tuple(rng.integers(2, 4, 4)))
        observed = model.joint("S", "T", "C")
        exact = np.stack([model.do({"S": s}).joint("C") for s in range(model.values("S"))])
        np.testing.assert_allclose(front_door(observed), exact, atol=1e-10)


def test_without_full_support_there_is_no_comb():
    """C13c: an error, and two diagrams with one observed joint and two effects show why."""
    made = []
    for table in ([0.9, 0.1], [0.2, 0.8]):
        tar = np.array([[1.0, 0.0], [0.0, 1.0]])  # T = S: the value T = 1 is never seen with S = 0
        made.append(FiniteSCM({"H": Box((), np.array([0.5, 0.5])), "S": Box(("H",), np.eye(2)), "T": Box(("S",), tar), "C": Box(("H", "T"), np.array([[[0.7, 0.3], table], [[0.5, 0.5], [0.4, 0.6]]]))}, ("H",)))
    one, other = (model.joint("S", "T", "C") for model in made)
    np.testing.assert_allclose(one, other)
    assert not np.allclose(made[0].do({"S": 1}).joint("C"), made[1].do({"S": 1}).joint("C"))
    with pytest.raises(checks.InputError, match="full support"):
        front_door(one)


def test_surgery():
    """Eq. surgery: on a root it is conditioning, on a node without children it changes no other, holding a law is mixing values, and a held node forgets its parents."""
    model = random_front_door(np.random.default_rng(1), (3, 2, 3, 2))
    np.testing.assert_allclose(model.do({"H": 1}).joint("S", "C"), model.joint("S", "C", given={"H": 1}))
    np.testing.assert_allclose(model.do({"C": 0}).joint("H", "S", "T"), model.joint("H", "S", "T"))
    law = np.array([0.3, 0.7])
    np.testing.assert_allclose(model.do({"S": law}).joint("C"), 0.3 * model.do({"S": 0}).joint("C") + 0.7 * model.do({"S": 1}).joint("C"))
    np.testing.assert_allclose(model.do({"S": law}).joint("H", "S"), np.outer(model.joint("H"), law))


def functional(rng):
    """A -> B -> C, A -> C, three values each, three states of noise."""
    shape = {"A": (3,), "B": (3, 3), "C": (3, 3, 3)}
    return FunctionalSCM({"A": (), "B": ("A",), "C": ("A", "B")}, {n: rng.dirichlet(np.ones(3)) for n in shape}, {n: rng.integers(3, size=s) for n, s in shape.items()}, dict.fromkeys(shape, 3))


def enumerate_counterfactual(model, of, held, given):
    """Abduct, intervene, predict by going through every state of the noise."""
    made = np.zeros(model.values[of])
    for u in itertools.product(range(3), repeat=3):
        noise_u = dict(zip("ABC", u))
        weight = np.prod([model.noise[n][noise_u[n]] for n in "ABC"])
        worlds = []
        for fixed in ({}, held):
            x = {}
            for n in "ABC":
                x[n] = fixed.get(n, int(model.functions[n][tuple(x[p] for p in model.parents[n]) + (noise_u[n],)]))
            worlds.append(x)
        if all(worlds[0][n] == v for n, v in given.items()):
            made[worlds[1][of]] += weight
    return made / made.sum()


def test_twins():
    """Eq. twin: counterfactuals by contraction are those of enumeration; without evidence they are do(), and holding what was seen gives what was seen."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        model = functional(rng)
        seen = model.diagram().joint("B", "C")
        b, c = np.argwhere(seen > 0)[0]
        given, held = {"B": int(b), "C": int(c)}, {"A": int(rng.integers(3))}
        np.testing.assert_allclose(model.counterfactual("C", held, given), enumerate_counterfactual(model, "C", held, given), atol=1e-12)
        np.testing.assert_allclose(model.counterfactual("C", held, {}), model.diagram().do(held).joint("C"), atol=1e-12)
        np.testing.assert_allclose(model.counterfactual("C", {"B": int(b)}, given), np.eye(3)[c], atol=1e-12)


def test_wrong_diagrams_are_refused():
    with pytest.raises(checks.InputError, match="sum to 1"):
        FiniteSCM({"A": Box((), np.array([0.5, 0.4]))})
    with pytest.raises(checks.InputError, match="no box"):
        FiniteSCM({"A": Box(("B",), np.eye(2))})
    with pytest.raises(checks.InputError, match="shape"):
        FiniteSCM({"A": Box((), np.array([0.5, 0.5])), "B": Box(("A",), np.eye(3))})
    with pytest.raises(checks.InputError, match="cycle"):
        FiniteSCM({"A": Box(("B",), np.eye(2)), "B": Box(("A",), np.eye(2))})
    with pytest.raises(checks.InputError, match="probability 0"):
        FiniteSCM({"A": Box((), np.array([1.0, 0.0]))}).joint("A", given={"A": 1})


# ---------------------------------------------------------------- what the oracle guards: any model with noise of finite law becomes a diagram of its reachable values

STATES = torch.tensor([-1.0, 0.4, 1.1])
LAW = np.array([0.2, 0.5, 0.3])
EDGES = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])


def diagram_of(node, d=3):
    """The `FunctionalSCM` of x_j = node(x, j) + u_j, u_j over STATES, on the graph EDGES, and the numbers behind the values: {name: [values]}. node: one row of values [d] to a number."""
    parents = {str(j): tuple(str(i) for i in range(d) if EDGES[i, j]) for j in range(d)}
    numbers, functions = {}, {}
    for j in range(d):
        shape = tuple(len(numbers[p]) for p in parents[str(j)])
        reached = np.zeros((*shape, len(STATES)))
        for index in np.ndindex(shape):
            x = torch.zeros(d)
            for p, i in zip(parents[str(j)], index):
                x[int(p)] = float(numbers[p][i])
            reached[index] = np.round(float(node(x, j)) + STATES.numpy(), 4)
        numbers[str(j)], inverse = np.unique(reached, return_inverse=True)
        functions[str(j)] = inverse.reshape(reached.shape)
    return FunctionalSCM(parents, dict.fromkeys(parents, LAW), functions, {name: len(values) for name, values in numbers.items()}), numbers


def every_noise():
    """All states of the noise of three nodes, [27, 3], and their probabilities [27]."""
    index = np.array(list(itertools.product(range(3), repeat=3)))
    return STATES[torch.as_tensor(index)], LAW[index].prod(1)


def mean_and_square(values, weight):
    return np.array([(weight * values).sum(), (weight * values**2).sum()])


def check(node, predict, counterfactual):
    """Moments of every node under every do() agree with the diagram's, and so do those of what would have been, given the last node's value."""
    oracle, numbers = diagram_of(node)
    noise_u, weight = every_noise()
    for held in ({}, {0: 1}, {1: 2}, {0: 0, 1: 1}):
        fixed = {j: float(numbers[str(j)][k]) for j, k in held.items()}
        made = predict(noise_u, fixed).double().numpy()
        exact = oracle.diagram().do({str(j): k for j, k in held.items()})
        for j in range(3):
            np.testing.assert_allclose(mean_and_square(made[:, j], weight), mean_and_square(numbers[str(j)], exact.joint(str(j))), atol=2e-3)
    factual = predict(noise_u, {})
    fixed = {0: float(numbers["0"][2])}
    made = counterfactual(factual, fixed).double().numpy()
    for k, value in enumerate(numbers["1"]):
        rows = np.abs(factual[:, 1].double().numpy() - value) < 1e-3
        if rows.any():
            found = mean_and_square(made[rows, 2], weight[rows] / weight[rows].sum())
            np.testing.assert_allclose(found, mean_and_square(numbers["2"], oracle.counterfactual("2", {"0": 2}, {"1": k})), atol=2e-3)


def test_scm_agrees_with_the_oracle():
    """`scm.MLPSCM` (Eq. nscm-mlp) with random networks: predict under do() and counterfactual are those of surgery and of the twin."""
    model = scm.make("mlp", EDGES, seeding.generator(0, "scm"), 8).requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p *= 1.5
    check(lambda x, j: model.expected(x[None])[0, j], model.predict, model.counterfactual)


def nan_but(fixed, rows):
    held = torch.full((1, rows, 3), torch.nan)
    for j, value in fixed.items():
        held[..., j] = value
    return held


@pytest.mark.parametrize("mechanism", ["lin", "rff"])
def test_sampled_scms_agree_with_the_oracle(mechanism):
    """`data.scms` on a given graph: generate under do() and counterfactual."""
    family = scms.Family("small", ("er",), mechanism, "gaussian", weight=(0.5, 1.0), scale=(0.5, 1.0), length=(1.0, 1.0), bias=(-0.5, 0.5))
    drawn = scms.draw(family, 1, 3, seeding.generator(3, "s"), torch.as_tensor(EDGES)[None] > 0)
    names = drawn.order[0]
    there = lambda x: torch.zeros_like(x).index_copy(-1, names, x)  # noqa: E731
    back = lambda x: x[..., names]  # noqa: E731
    run = lambda f, x, fixed: back(f(there(x[None]), there(nan_but(fixed, len(x)))))[0]  # noqa: E731
    check(lambda x, j: back(drawn.mechanisms(there(x[None, None])))[0, 0, j], lambda u, fixed: run(drawn.generate, u, fixed), lambda x, fixed: run(drawn.counterfactual, x, fixed))


def test_an_inferred_scm_agrees_with_the_oracle():
    """Cond-FiP with random weights: fixed point under do() and counterfactual by its own abduction."""
    rng = seeding.generator(0, "net")
    model = CondFiP(Sizes(12, 2, 6, 6, 16, 16, 1, 1, 2), rng).requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=rng)
    adjacency = torch.as_tensor(EDGES)[None] > 0
    condition, steps = model.condition(torch.randn(1, 10, 3, generator=rng), adjacency), steps_needed(adjacency)
    mechanism = lambda z: model.mechanism(z, condition)  # noqa: E731
    check(lambda x, j: mechanism(x[None, None])[0, 0, j], lambda u, fixed: fixed_point(mechanism, u[None], steps, nan_but(fixed, len(u)))[0],
          lambda x, fixed: inference.counterfactual(mechanism, x[None], nan_but(fixed, len(x)), steps)[0])
