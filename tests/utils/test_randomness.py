"""Addressed random numbers: as random as others, and a function of their address alone."""

import math

import pytest
import torch
from torch import Tensor

from utils.randomness import Stream, bits, integers, normal, normal_images, seed_of, word

N = 1 << 18
LIMIT = 5 / math.sqrt(N)  # five standard deviations of a correlation of N pairs
POSITIONS = torch.arange(N)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def test_the_numbers_stay_what_they_are() -> None:
    """A resumed run needs the numbers that the run before it drew, whatever the version of this code."""
    assert seed_of(Stream.ORDER, 2, 3) == 5423257105290009525
    assert seed_of(Stream.START, 1234) == 6860309937405624766
    assert integers(Stream.TIMES, torch.arange(4), 7, high=1000).tolist() == [118, 919, 107, 145]
    assert normal(Stream.NOISE, torch.arange(3), 5).tolist() == pytest.approx(
        [0.5668252, -0.2437226, -0.3277345], abs=1e-6
    )
    assert word("patch") == 5928055811237353911


def test_every_bit_is_fair_and_independent_of_the_others() -> None:
    words = bits(Stream.NOISE, POSITIONS)
    flags = torch.stack([(words >> k) & 1 for k in range(64)]).double()  # (64, N)
    assert (flags.mean(dim=1) - 0.5).abs().max() < LIMIT / 2
    off_diagonal = torch.corrcoef(flags) - torch.eye(64)
    assert off_diagonal.abs().max() < LIMIT


@pytest.mark.parametrize("part", [0, 1])
def test_one_changed_bit_of_an_address_changes_half_of_the_bits(part: int) -> None:
    address: list[Tensor] = [torch.full((64,), 1234), torch.full((64,), 70_000)]
    base = bits(Stream.TIMES, *address)
    address[part] = address[part] ^ (1 << torch.arange(64))
    changed = bits(Stream.TIMES, *address) ^ base
    share = torch.stack([(changed >> k) & 1 for k in range(64)]).double().mean()
    assert abs(share - 0.5) < 5 * 0.5 / 64


def test_integers_are_uniform() -> None:
    for high in (2, 7, 500):
        counts = torch.bincount(integers(Stream.TIMES, POSITIONS, high=high), minlength=high).double()
        expected = N / high
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - (high - 1)) < 5 * math.sqrt(2 * high)


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    x = normal(Stream.NOISE, POSITIONS).double()
    assert abs(x.mean()) < 5 / math.sqrt(N)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / N)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / N)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / N)
    assert 4 < x.abs().max() < 5.9
    below = torch.special.ndtr(x).sort().values  # Kolmogorov and Smirnov
    assert (below - torch.linspace(0, 1, N, dtype=torch.float64)).abs().max() < 1.95 / math.sqrt(N)


@pytest.mark.parametrize("distance", [1, 2, 3, 64, 1 << 12])
def test_neighbours_are_independent(distance: int) -> None:
    x = normal(Stream.NOISE, POSITIONS)
    for a, b in ((x[:-distance], x[distance:]), (x[:-distance].abs(), x[distance:].abs())):
        assert abs(correlation(a, b)) < LIMIT * 1.1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 0), (2, 0)),  # another seed
        ((1, 0), (1, 1)),  # another step
        ((1, 2), (2, 1)),
        ((0, 0), (0, 0, 0)),  # a longer address
        ((1234, 2, 99), (1234, 3, 99)),  # another use
    ],
)
def test_streams_are_independent(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    for a, b in (
        (bits(Stream.TIMES, *one, POSITIONS), bits(Stream.TIMES, *other, POSITIONS)),
        (bits(Stream.TIMES, POSITIONS, *one), bits(Stream.TIMES, POSITIONS, *other)),
    ):
        assert not torch.equal(a, b)
        assert abs(correlation(a.double(), b.double())) < LIMIT
    a, b = normal(Stream.NOISE, POSITIONS, *one), normal(Stream.NOISE, POSITIONS, *other)
    assert abs(correlation(a, b)) < LIMIT


def test_no_two_streams_meet() -> None:
    """Whatever the rest of their addresses: the stream comes first, and no number stands for two."""
    small = torch.arange(40)
    drawn = [bits(stream, small[:, None, None], small[:, None], small).flatten() for stream in Stream]
    assert len(set(map(int, Stream))) == len(Stream.__members__)
    assert len(torch.cat(drawn).unique()) == len(Stream) * 40**3


def test_addresses_are_not_symmetric() -> None:
    i, j = torch.arange(1, 300)[:, None], torch.arange(1, 300)[None, :]
    words = bits(Stream.ORDER, i, j)
    assert len(words.unique()) == words.numel()


def test_pixels_of_an_image_are_independent_of_their_neighbours_and_of_other_images() -> None:
    images = normal_images(Stream.NOISE, torch.tensor([5, 6]), 1234, 7, shape=(3, 256, 256))
    limit = 5 / math.sqrt(images.numel() / 2)
    assert abs(correlation(images[..., 1:], images[..., :-1])) < limit
    assert abs(correlation(images[..., 1:, :], images[..., :-1, :])) < limit
    assert abs(correlation(images[:, 1:], images[:, :-1])) < limit
    assert abs(correlation(images[0], images[1])) < limit
    later = normal_images(Stream.NOISE, torch.tensor([5, 6]), 1234, 8, shape=(3, 256, 256))
    assert abs(correlation(images, later)) < limit


@pytest.mark.parametrize("threads", [1, 2])
def test_a_number_depends_on_its_address_not_on_its_place_in_a_tensor(threads: int) -> None:
    """Vectorised code treats the last elements of a tensor apart; with several threads, of each thread's part."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = normal(Stream.NOISE, torch.arange(100_003))
        for length in (*range(1, 40), 1001, 40_009):
            for start in (0, 1, 5, 1017):
                part = normal(Stream.NOISE, torch.arange(start, start + length))
                assert torch.equal(part, whole[start : start + length])
        image = normal_images(Stream.SCENES, torch.tensor([3, 4]), 1, 2, shape=(3, 100, 90))
        window = normal_images(Stream.SCENES, torch.tensor([4]), 1, 2, shape=(3, 31, 27), row=11, column=13)
        assert torch.equal(window[0], image[1, :, 11:42, 13:40])
    finally:
        torch.set_num_threads(before)


def test_names_have_numbers() -> None:
    assert len({word(str(i)) for i in range(1000)}) == 1000
    assert 0 <= word("x") < 1 << 63
