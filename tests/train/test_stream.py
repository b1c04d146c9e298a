"""What an iteration sees: every image once an epoch, the same however the work is shared or cut."""

import pytest
import torch

from resnet_infer.errors import UsageError
from resnet_infer.train.stream import Stream, split


def chosen(stream: Stream, iterations: range) -> list[int]:
    return [position for i in iterations for position in stream.draws(i).chosen_B.tolist()]


@pytest.mark.parametrize(("images", "batch"), [(20, 8), (24, 8), (8, 8), (9, 8)])
def test_every_image_once_an_epoch_and_no_batch_short(images: int, batch: int) -> None:
    stream = Stream(images, batch, seed=3)
    seen = chosen(stream, range(images * 3))
    assert len(seen) == images * batch * 3
    epochs = [seen[at : at + images] for at in range(0, len(seen), images)]
    assert all(sorted(epoch) == list(range(images)) for epoch in epochs)
    assert images < 9 or len({tuple(epoch) for epoch in epochs}) > 1


def test_an_iteration_does_not_depend_on_those_before() -> None:
    one, other = Stream(20, 8, seed=1), Stream(20, 8, seed=1)
    straight = [one.draws(i) for i in range(12)]
    for i in (11, 2, 7):
        again = other.draws(i)
        assert torch.equal(again.chosen_B, straight[i].chosen_B)
        assert torch.equal(again.uniform_B4, straight[i].uniform_B4)
        assert torch.equal(again.normal_B3, straight[i].normal_B3)


def test_shares_of_processes_are_the_batch() -> None:
    whole = Stream(20, 8, seed=1)
    shares = [Stream(20, 8, seed=1, rank=rank, world=4) for rank in range(4)]
    for i in range(6):
        parts = [share.draws(i) for share in shares]
        assert torch.equal(torch.cat([part.chosen_B for part in parts]), whole.draws(i).chosen_B)
        assert torch.equal(torch.cat([part.uniform_B4 for part in parts]), whole.draws(i).uniform_B4)


def test_seeds_differ() -> None:
    assert chosen(Stream(50, 10, seed=1), range(5)) != chosen(Stream(50, 10, seed=2), range(5))


def test_random_numbers_are_what_they_say() -> None:
    draws = [Stream(5000, 1000, seed=0).draws(i) for i in range(20)]
    uniform = torch.cat([d.uniform_B4 for d in draws]).double()
    normal = torch.cat([d.normal_B3 for d in draws]).double()
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert uniform.mean(0) == pytest.approx([0.5] * 4, abs=0.01)
    assert normal.mean(0) == pytest.approx([0] * 3, abs=0.03)
    assert normal.std(0) == pytest.approx([1] * 3, abs=0.02)


def test_a_split_parts_the_images() -> None:
    kept, held_out = split(50_000, 5000, seed=0)
    assert (len(kept), len(held_out)) == (45_000, 5000)
    assert sorted([*kept, *held_out]) == list(range(50_000))
    assert split(50_000, 5000, seed=0) == (kept, held_out)
    with pytest.raises(UsageError, match="--hold-out 10 leaves nothing"):
        split(10, 10, seed=0)


def test_batches_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="5 training images are too few for a batch of 8"):
        Stream(5, 8, seed=0)
    with pytest.raises(UsageError, match="--batch 8 cannot be shared evenly by 3 processes"):
        Stream(50, 8, seed=0, world=3)
