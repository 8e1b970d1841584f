import pytest
import torch

from gencausal import checks, seeding
from gencausal.nn.unet import Decoder, Encoder, UNet


def unet(seed=0, **options):
    return UNet(3, 16, seeding.generator(seed, "unet"), width=16, **{"patch": 2, "blocks": 1} | options)


def loosened(module):
    """No weight zero, so that every path counts."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeding.generator(1, name)))
    return module


X, LEVEL = torch.randn(4, 3, 16, 16, generator=seeding.generator(2, "x")), torch.linspace(-1, 1, 4)


@pytest.mark.parametrize("options", [{}, {"multipliers": (1, 2, 2)}, {"patch": 4}, {"multipliers": (1,)}, {"condition": 3}])
def test_an_image_of_the_same_shape_and_a_gradient_everywhere(options):
    net = loosened(unet(**options))
    condition = torch.randn(4, 3, generator=seeding.generator(3, "c")) if options.get("condition") else None
    out = net(X, LEVEL, condition)
    assert out.shape == X.shape
    (out.square().sum() + (net(X, LEVEL).square().sum() if condition is not None else 0)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_an_image_alone_or_in_company_is_treated_alike():
    net = loosened(unet())
    torch.testing.assert_close(net(X, LEVEL)[2:3], net(X[2:3], LEVEL[2:3]), atol=1e-5, rtol=0)


def test_level_and_condition_matter_and_a_missing_condition_is_not_a_zero_one():
    net = loosened(unet(condition=2))
    c = torch.zeros(4, 2)
    assert (net(X, LEVEL, c) - net(X, LEVEL + 0.5, c)).abs().max() > 1e-3
    assert (net(X, LEVEL, c) - net(X, LEVEL, c + 1)).abs().max() > 1e-3
    assert (net(X, LEVEL, c) - net(X, LEVEL)).abs().max() > 1e-3


def test_weights_come_from_the_generator_and_the_network_starts_at_zero():
    first, again, other = unet().state_dict(), unet().state_dict(), unet(1).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first) and any(not torch.equal(first[k], other[k]) for k in first)
    assert unet()(X, LEVEL).abs().max() == 0


def test_every_pixel_sees_every_other():
    """Attention at the lowest map: a change in one corner reaches the opposite one."""
    net, moved = loosened(unet()), X.clone()
    moved[:, :, 0, 0] += 1
    assert (net(moved, LEVEL) - net(X, LEVEL))[:, :, -1, -1].abs().max() > 1e-6


def test_encoder_gives_numbers_and_sees_places():
    net = loosened(Encoder(3, 16, 5, seeding.generator(0, "encoder"), width=16, patch=2))
    assert net(X, LEVEL).shape == (4, 5) and net(X).shape == (4, 5)
    assert (net(X.roll(8, 3), LEVEL) - net(X, LEVEL)).abs().max() > 1e-3
    net(X, LEVEL).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_decoder_gives_an_image():
    net = loosened(Decoder(3, 16, 5, seeding.generator(0, "decoder"), width=16, patch=2))
    v = torch.randn(4, 5, generator=seeding.generator(3, "v"))
    out = net(v)
    assert out.shape == X.shape
    torch.testing.assert_close(net(v[1:2]), out[1:2], atol=1e-5, rtol=0)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("make", [lambda: UNet(3, 18, seeding.generator(0, "a"), patch=4), lambda: Encoder(3, 20, 2, seeding.generator(0, "a"), patch=4), lambda: Decoder(3, 20, 2, seeding.generator(0, "a"), patch=4)])
def test_a_size_that_patches_do_not_divide_is_refused(make):
    with pytest.raises(checks.InputError, match="size"):
        make()
