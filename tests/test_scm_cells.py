"""Test cells: their rows follow the standardised SCM exactly, nothing of the context leaks into the query, interventions are what they say."""

import pytest
import torch

from gencausal.data import scm_cells
from gencausal.data.scm_cells import cell


@pytest.fixture(scope="module", params=["lin_in", "rff_out"])
def made(request):
    return cell(request.param, 5, 60, 4, rows=20)


def test_rows_follow_the_standardised_scm(made):
    """F_std = x_std - n_std in every part of a cell; held nodes have their value, between the quantiles; the other rows of a cell are under no intervention."""
    for data, noise_u in ((made.context, made.context_noise), (made.query, made.query_noise), (made.do_factual, made.do_noise)):
        assert torch.allclose(made.mechanism(data), data - noise_u, atol=2e-3)
    fixed = ~made.held.isnan()
    assert made.held.shape == (4, 100, 5) and (fixed.sum(2) == 1).all()
    assert torch.equal(made.do_data[fixed], made.held[fixed])
    gap = (made.mechanism(made.do_data) + made.do_noise - made.do_data).abs()
    assert gap[~fixed].max() < 2e-3 < gap[fixed].max()
    assert made.held[fixed].abs().max() < 3
    assert all((made.held[:, 20 * k : 20 * k + 20].isnan() == made.held[:, 20 * k : 20 * k + 1].isnan()).all() for k in range(5))


def test_smaller_contexts_are_the_first_rows_of_larger_ones():
    """SCMs and query do not move with the context, so that errors against context are paired; standardisation on the context alone is another scale of the same rows."""
    small, large = cell("rff_in", 4, 20, 3, rows=2), cell("rff_in", 4, 300, 3, rows=2)
    assert torch.allclose(small.scale.back(small.context), large.scale.back(large.context)[:, :20], atol=1e-4)
    assert torch.allclose(small.scale.back(small.query), large.scale.back(large.query), atol=1e-4)
    own = cell("rff_in", 4, 20, 3, rows=2, scale_on="context")
    assert own.context.mean(1).abs().max() < 1e-5 < small.context.mean(1).abs().max()
    assert not torch.equal(small.query, cell("rff_in", 4, 20, 3, seed=1, rows=2).query)


def test_protocol_row():
    row = scm_cells.protocol(cell("lin_in", 6, 30, 5, rows=2))
    assert row["cell"] == "lin_in_d6_n30" and row["scms"] == 5 and row["query"] == 400 and 0.5 < row["edges_a_node"] < 2.5 and row["longest_path"] <= row["longest_path_max"] <= 5
