"""Old and new names, as found in public files."""

import pytest

from superserve.supernet.importing.ofa_keys import spellings


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("blocks.0.conv1.conv.conv.weight", "blocks.0.conv1.conv.weight"),
        ("blocks.0.conv1.bn.bn.bias", "blocks.0.conv1.bn.bias"),
        ("input_stem.1.conv.conv.conv.weight", "input_stem.1.conv.conv.weight"),
        ("classifier.linear.linear.weight", "classifier.linear.weight"),
        (
            "blocks.3.conv.depth_conv.conv.conv.weight",
            "blocks.3.mobile_inverted_conv.depth_conv.conv.conv.weight",
        ),
        ("blocks.3.conv.depth_conv.conv.conv.weight", "blocks.3.mobile_inverted_conv.depth_conv.conv.weight"),
        ("blocks.3.conv.depth_conv.conv.7to5_matrix", "blocks.3.mobile_inverted_conv.depth_conv.conv.7to5_matrix"),
        ("blocks.3.conv.depth_conv.se.fc.reduce.bias", "blocks.3.mobile_inverted_conv.depth_conv.se.fc.reduce.bias"),
        ("first_conv.bn.weight", "first_conv.bn.bn.weight"),
    ],
)
def test_knows_both(new: str, old: str) -> None:
    names = list(spellings(new))
    assert names[0] == new
    assert old in names
    assert len(set(names)) == len(names)
