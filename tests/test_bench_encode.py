"""The benchmark of encoding measures what it says, at sizes of a moment."""

import pytest

from tests.bench import encode, tables


def test_ratios_are_taken_within_a_round():
    """The median of ratios, not the ratio of medians: what disturbs a round disturbs both."""
    measured = {"fast_many": [10.0, 200.0, 30.0], "tool": [10.0, 100.0, 10.0]}
    assert encode.ratios(measured) == {"fast_many / tool": 2.0}


def test_contenders_take_turns():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or 1.0 for name in "ab"}
    assert encode.in_turn(contenders, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert calls == ["a", "b", "a", "b"]


@pytest.mark.slow
def test_the_whole_report_and_its_table(bundle_folder, photos):
    report = encode.measure(
        bundle_folder,
        photos,
        rows=300,
        cold_rows=100,
        rounds=1,
        seconds=0.2,
        photos_most=24,
        queries=3,
    )
    assert report["photos"] == 24
    for found in report["network"]["differences_from_keras"].values():
        assert found["bits"] == 24 * 32 and found["bits_that_differ_far_from_half"] == 0
    written = {**report, "machine": {"processor": "a test's"}}
    assert "| keras predict |" in "\n".join(tables.encoding(written))
