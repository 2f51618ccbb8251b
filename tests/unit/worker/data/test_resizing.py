import torch

from worker.data.resizing import enlarge, shrink


def test_images_that_already_fit_are_not_copied():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert shrink(images, (1, 28, 28)) is images


def test_shrink_leaves_enlarging_to_the_batch():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert shrink(images, (3, 28, 28)) is images


def test_shrink_averages_with_antialiasing():
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = shrink(stripes, (1, 8, 8))
    assert (small.shape, small.dtype) == ((1, 1, 8, 8), torch.uint8)
    assert (small.float() - 127.5).abs().max() < 10


def test_rgb_becomes_grey_by_itu_r_601():
    red, green, blue, white = 255 * torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.uint8
    )
    images = torch.stack([red, green, blue, white])[:, :, None, None]
    assert shrink(images, (1, 1, 1)).flatten().tolist() == [76, 150, 29, 255]


def test_enlarge_interpolates_and_repeats_grey():
    pixels = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    enlarged = enlarge(pixels, (3, 2, 4))
    assert enlarged.shape == (1, 3, 2, 4)
    torch.testing.assert_close(
        enlarged, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 3, 2, 4), check_stride=False
    )
