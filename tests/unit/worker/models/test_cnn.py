"""The convolution of grey images: as a product of matrices it is the convolution that it was."""

from __future__ import annotations

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.functional import conv2d

from worker.models.cnn import OneChannelConvolution


def _layer_and_images() -> tuple[OneChannelConvolution, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    layer = OneChannelConvolution(3, 5)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return layer.double(), torch.randn(4, 1, 9, 11, generator=generator, dtype=torch.float64)


def test_what_it_gives_and_its_gradients_are_a_convolutions() -> None:
    layer, images = _layer_and_images()
    images.requires_grad_()
    wanted = (images, *layer.parameters())
    maps, expected = layer(images), conv2d(images, layer.weight, layer.bias)
    torch.testing.assert_close(maps, expected)
    weights = torch.randn_like(expected)
    found = torch.autograd.grad((maps * weights).sum(), wanted)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), wanted))


def test_only_batches_that_are_trained_on_are_a_product_of_matrices() -> None:
    layer, images = _layer_and_images()
    assert layer(images).is_contiguous(memory_format=torch.channels_last)
    assert layer(images[:1]).is_contiguous(), "one image: methods with noise know the convolution"
    assert layer.eval()(images).is_contiguous()


def test_gradients_of_each_image_by_vmap_add_up_to_the_batchs() -> None:
    layer, images = _layer_and_images()
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = functional_call(layer, parameters, (images,))
        return maps.square().sum()

    pairs = images.reshape(2, 2, *images.shape[1:])
    by_pair = vmap(grad(loss), in_dims=(None, 0))(parameters, pairs)
    for name, gradient in grad(loss)(parameters, images).items():
        torch.testing.assert_close(by_pair[name].sum(0), gradient)
