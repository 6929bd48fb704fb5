"""Deployment efficiency is volume ratio × precision ratio."""

import pytest

from pipeline.score.efficiency import efficiency


def test_the_published_example_gives_five_hundredths_though_the_publication_prints_a_quarter():
    example = efficiency(volume=100e9, reference_volume=1e12, precision=8, reference_precision=16)
    assert example.volume_ratio == pytest.approx(0.1)
    assert example.precision_ratio == 0.5
    assert example.deployment_efficiency == pytest.approx(0.05)
    assert example.deployment_efficiency != pytest.approx(0.25)
    assert example.saving == pytest.approx(0.95)


def test_the_reference_against_itself_saves_nothing():
    same = efficiency(1234, 1234, 32, 32)
    assert (same.deployment_efficiency, same.saving) == (1.0, 0.0)


@pytest.mark.parametrize("values", [(1, 0, 8, 32), (1, 1, 8, 0), (-1, 1, 8, 32), (1, 1, -8, 32)])
def test_sizes_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match="at least 0"):
        efficiency(*values)
