from superserve.training.watch import EpochRecord, warnings, watched
from support.supernets import small_network


def epoch(number: int, **accuracy: float) -> EpochRecord:
    return EpochRecord(epoch=number, loss=1.0, accuracy=accuracy)


def test_watches_both_ends_and_the_middle() -> None:
    space = small_network().space
    found = watched(space)
    assert list(found) == ["smallest", "middle", "largest"]
    assert (found["smallest"], found["largest"]) == (space.smallest(), space.largest())
    middle = found["middle"]
    space.validate(middle)
    assert tuple(len(keep) for keep in middle.keep) == (2, 4)
    assert middle.width("stem") == 0.75


def test_says_nothing_while_all_rise() -> None:
    history = (epoch(1, smallest=40, largest=50), epoch(2, smallest=45, largest=55))
    assert warnings(history, {"smallest": 46, "largest": 60}, 2000) == ()


def test_a_fall_beyond_chance_is_said_with_the_best_epoch() -> None:
    history = (epoch(1, smallest=50, largest=55), epoch(2, smallest=49, largest=60))
    (said,) = warnings(history, {"smallest": 44.0, "largest": 62}, 2000)
    assert said == "smallest falls behind: 44.0 %, after 50.0 % in epoch 1"
    assert warnings(history, {"smallest": 47.5, "largest": 62}, 2000) == ()  # 2,000 images: could be chance
    assert warnings(history, {"smallest": 47.5, "largest": 62}, 20_000) != ()


def test_a_large_subnet_below_a_small_one_is_said() -> None:
    (said,) = warnings((), {"smallest": 60.0, "largest": 50.0}, 2000)
    assert said == "largest falls behind smallest: 50.0 % against 60.0 %"
    assert warnings((), {"smallest": 50.5, "largest": 50.0}, 2000) == ()


def test_an_epoch_in_one_line() -> None:
    record = EpochRecord(epoch=3, loss=1.23456, accuracy={"smallest": 50.04, "largest": 61.0}, warnings=("careful",))
    assert record.line() == "epoch 3: loss 1.235; smallest 50.0 %, largest 61.0 % [careful]"
