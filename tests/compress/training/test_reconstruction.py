"""What the channels that stay can tell of those that went."""

import numpy as np
import pytest

from pipeline.compress.training.reconstruction import predict

RNG = np.random.default_rng(0)
KEPT = np.array([0, 2])


def test_a_channel_that_others_add_up_to_is_told_by_them() -> None:
    after = RNG.normal(size=(5000, 2))
    before = np.stack([after[:, 0], after @ [2.0, -1.0] + 3.0, after[:, 1]], axis=1)
    mixing, offset = predict(before, after, KEPT)
    assert mixing is not None
    assert mixing[:, 1] == pytest.approx([2.0, -1.0], abs=0.05)
    assert offset[1] == pytest.approx(3.0, abs=0.05)


def test_channels_without_a_difference_need_nothing() -> None:
    after = RNG.normal(size=(50, 2)) + 7
    mixing, offset = predict(after.copy(), after, np.arange(2))
    assert mixing is not None
    assert not mixing.any()
    assert not offset.any()


def test_a_silent_layer_is_told_its_means_alone() -> None:
    before = np.full((50, 3), 4.0)
    mixing, offset = predict(before, np.zeros((50, 2)), KEPT)
    assert mixing is not None
    assert np.allclose(mixing, 0)
    assert np.allclose(offset, 4.0)


def test_few_samples_of_many_channels_are_not_learnt_by_heart() -> None:
    samples = RNG.normal(size=(8, 400))
    mixing, _ = predict(samples, samples[:, :200], np.arange(200))
    assert mixing is not None
    unseen = RNG.normal(size=(1000, 400))
    told = unseen[:, :200] @ mixing
    assert np.square(unseen[:, 200:] - told[:, 200:]).mean() < 1.2
