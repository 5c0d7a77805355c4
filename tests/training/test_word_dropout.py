import torch

from superserve.training.word_dropout import WordDropout, trimmed

NUMBERS = torch.tensor([[2, 5, 6, 7, 0, 0], [2, 8, 0, 0, 0, 0]])


def test_without_dropout_texts_are_only_trimmed() -> None:
    numbers, mask = WordDropout(1, make_unknown=0.0, leave_out=0.0)(NUMBERS, torch.Generator())
    assert torch.equal(numbers, NUMBERS[:, :4])
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert all(map(torch.equal, (numbers, mask), trimmed(NUMBERS)))


def test_everything_may_go_but_the_first_piece() -> None:
    generator = torch.Generator().manual_seed(0)
    unknown, _ = WordDropout(1, make_unknown=1.0, leave_out=0.0)(NUMBERS, generator)
    assert unknown.tolist() == [[2, 1, 1, 1], [2, 1, 0, 0]]
    left, mask = WordDropout(1, make_unknown=0.0, leave_out=1.0)(NUMBERS, generator)
    assert left.tolist() == [[2], [2]]
    assert mask.tolist() == [[1], [1]]


def test_shares_are_as_asked_and_order_is_kept() -> None:
    numbers = torch.arange(2, 102).repeat(200, 1)
    changed, mask = WordDropout(1, make_unknown=0.1, leave_out=0.2)(numbers, torch.Generator().manual_seed(1))
    assert abs(float(mask.sum()) / numbers.numel() - 0.8) < 0.02
    assert abs(float((changed == 1).sum()) / numbers.numel() - 0.1) < 0.02
    for row in changed:
        known = row[row > 1]
        assert torch.equal(known, known.sort().values)


def test_draws_come_from_the_generator_alone() -> None:
    dropout = WordDropout(1)
    numbers = torch.arange(2, 34).repeat(4, 1)
    one, again, other = (dropout(numbers, torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)
