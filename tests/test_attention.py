"""Attention among nodes and rows: DAG-attention against its definition, at its limits, and blocks against the plain formula."""

import pytest
import torch
from torch.nn.functional import layer_norm, linear, relu, scaled_dot_product_attention

from gencausal import seeding
from gencausal.nn import attention
from gencausal.nn.attention import Block, dag_attention, row_attention, softmax_attention


def draw(*shape, name="x", dtype=torch.float64):
    return torch.randn(shape, generator=seeding.generator(0, "attention", name), dtype=dtype)


def weights(scores, mask):
    """The map alone: queries are the scores, keys and values the identity."""
    eye = torch.eye(scores.shape[-1], dtype=scores.dtype)
    return dag_attention(scores, eye, eye, mask)


MASK = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_dag_attention_is_its_definition(size):
    """Eq. dag-attention, and its identity softmax min(1, e^lse); rows sum to at most 1; the row of a root is exactly zero (oracle 1)."""
    scores = size * draw(3, 4, 4)
    made = weights(scores, MASK)
    top = MASK * scores.exp()
    torch.testing.assert_close(made, (top / top.sum(-1, keepdim=True).clamp(min=1)).float().double())
    lse = scores.masked_fill(~MASK, -torch.inf)[:, 1:].logsumexp(-1, keepdim=True)
    torch.testing.assert_close(made[:, 1:], (scores.masked_fill(~MASK, -torch.inf)[:, 1:].softmax(-1) * lse.exp().clamp(max=1)).float().double())
    assert (made.sum(-1) <= 1 + 1e-6).all() and (made[:, 0] == 0).all() and (made[~MASK.expand(3, -1, -1)] == 0).all()


def test_dag_attention_at_its_limits():
    """It is softmax where the sum is at least 1, less where all scores are very negative; scores of +-1e3, an empty graph and a large score of a node that is no parent give finite values and gradients."""
    torch.testing.assert_close(weights(torch.full((4, 4), 2.0), MASK)[3], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    assert weights(torch.full((4, 4), -5.0), MASK)[3].sum() == pytest.approx(3 * torch.tensor(-5.0).exp().item())
    assert softmax_attention(torch.full((4, 4), -5.0), torch.eye(4), torch.eye(4), MASK)[3].sum() == pytest.approx(1), "softmax forces the sum to 1"
    for scores in (1e3 * draw(4, 4).float(), -1e3 * draw(4, 4).float().abs(), 1e3 * (1 - MASK.float())):
        for mask in (MASK, torch.zeros_like(MASK)):
            scores = scores.detach().requires_grad_(True)
            made = weights(scores, mask)
            made.square().sum().backward()
            assert made.isfinite().all() and scores.grad.isfinite().all() and (scores.grad[~mask] == 0).all()
    assert weights(1e3 * (1 - MASK.float()), MASK)[3, :3].tolist() == pytest.approx([1 / 3] * 3), "a score outside the graph has no part in it"
    assert (softmax_attention(draw(4, 2), draw(4, 2), draw(4, 2), MASK)[0] == 0).all()


@pytest.mark.parametrize("kept", [2**24, 0])
def test_row_attention_has_the_gradient_of_softmax(kept, monkeypatch):
    """Kept or made again in parts, map and gradients are those of torch's attention."""
    monkeypatch.setattr(attention._RowAttention, "KEPT", kept)
    monkeypatch.setattr(attention._RowAttention, "PART", 4)
    inputs = [draw(10, 7, 3, name=n).requires_grad_(True) for n in "qkv"]
    mine = attention._RowAttention.apply(*inputs)
    torch.testing.assert_close(mine, scaled_dot_product_attention(*inputs, scale=1.0))
    assert torch.autograd.gradcheck(attention._RowAttention.apply, inputs)


def test_row_attention_in_half_precision_on_a_cpu():
    q, k, v = (draw(2, 3, 5, 4, name=n).bfloat16().requires_grad_(True) for n in "qkv")
    exact = scaled_dot_product_attention(*(t.float() for t in (q, k, v)), scale=1.0)
    assert (row_attention(q, k, v).float() - exact).abs().max() < 0.05


def plain(block, x, mask):
    """A block written out: three layer norms, heads, softmax or DAG-attention, residual, feed-forward."""
    q, k, v = (linear(norm(x), read.weight, read.bias) for norm, read in zip(block.norms, block.read))
    heads = lambda t: t.unflatten(-1, (block.heads, -1))  # noqa: E731
    if block.axis == "rows":
        score = torch.einsum("bnjhk,bmjhk->bjhnm", heads(q), heads(k)) / heads(q).shape[-1] ** 0.5
        out = torch.einsum("bjhnm,bmjhk->bnjhk", score.softmax(-1), heads(v))
    else:
        score = torch.einsum("bnihk,bnjhk->bnhij", heads(q), heads(k)) / heads(q).shape[-1] ** 0.5
        top = mask[:, None, None] * score.exp()
        out = torch.einsum("bnhij,bnjhk->bnihk", top / top.sum(-1, keepdim=True).clamp(min=1), heads(v))
    x = x + block.write(out.flatten(-2))
    return x + block.feed.second(relu(linear(layer_norm(x, x.shape[-1:], block.feed.norm.gain, block.feed.norm.shift), block.feed.first.weight, block.feed.first.bias)))


@pytest.mark.parametrize("axis", ["rows", "nodes"])
def test_a_block_is_the_plain_formula(axis):
    """Folding gains and shifts of the norms into the projections changes nothing: equal to 1e-5, gradients reach every parameter."""
    block = Block(axis, 12, 2, 4, 20, seeding.generator(0, "block"))
    with torch.no_grad():
        for i, p in enumerate(block.parameters()):
            p += 0.3 * draw(*p.shape, name=str(i)).float()
    x, mask = draw(2, 6, 4, 12).float(), MASK.expand(2, -1, -1)
    made = block(x, mask)
    assert (made - plain(block, x, mask)).abs().max() < 1e-5 * made.abs().max()
    made.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for name, p in block.named_parameters() if name != "read.1.bias" or axis == "nodes")
