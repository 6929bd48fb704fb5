"""Channels between linear layers: turned and turned back they are the same, and the first tell most."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.training.rotation import turn_of
from pipeline.compress.training.shares import spread


def _case(channels: int, outputs: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(500, rank)) @ rng.normal(size=(rank, channels))
    return samples - samples.mean(axis=0), rng.normal(size=(channels, outputs))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12), st.integers(0, 99))
def test_what_is_turned_is_turned_back(channels: int, outputs: int, rank: int, seed: int) -> None:
    samples, reads = _case(channels, outputs, rank, seed)
    turn, back = turn_of(samples.T @ samples / len(samples), reads)
    assert np.allclose(turn @ back, np.eye(channels), atol=1e-8)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 11), st.integers(0, 99))
def test_the_first_channels_lose_no_more_than_any_others_could(
    channels: int, outputs: int, kept: int, seed: int
) -> None:
    samples, reads = _case(channels, outputs, channels, seed)
    turn, back = turn_of(samples.T @ samples / len(samples), reads)
    sums = samples @ reads
    lost = np.square(sums - samples @ turn[:, :kept] @ back[:kept] @ reads).sum()
    least = np.square(np.linalg.svd(sums, compute_uv=False)[kept:]).sum()  # Eckart and Young
    assert lost <= 1.05 * least + 1e-6 * np.square(sums).sum()


def test_silent_channels_are_turned_without_harm() -> None:
    turn, back = turn_of(np.zeros((3, 3)), np.zeros((3, 2)))
    assert np.allclose(turn @ back, np.eye(3))


RISING = [[float(i) for i in range(32)], [100.0 + i for i in range(32)]]


def test_channels_go_where_they_harm_least() -> None:
    assert spread(RISING, [1, 1], [8, 8], 24) == [8, 32]


def test_every_group_keeps_its_least() -> None:
    assert spread(RISING, [1, 1], [8, 8], 32) == [8, 24]
    assert spread(RISING, [1, 1], [8, 8], 1000) == [8, 8]


def test_weights_saved_excuse_harm() -> None:
    assert spread(RISING, [1, 1000], [8, 8], 24) == [32, 8]


def test_nothing_to_go_leaves_all() -> None:
    assert spread(RISING, [1, 1], [8, 8], 0) == [32, 32]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(4, 70), st.floats(1, 100)), min_size=1, max_size=5), st.integers(0, 200))
def test_as_many_go_as_asked_within_one_step(groups: list[tuple[int, float]], to_go: int) -> None:
    ranked = [sorted(float(i * i % 37) for i in range(count)) for count, _ in groups]
    able = sum(count - 4 for count, _ in groups if count % 4 == 0 and count < 32)
    kept = spread(ranked, [weight for _, weight in groups], [4] * len(groups), min(to_go, able))
    gone = sum(count for count, _ in groups) - sum(kept)
    assert min(to_go, able) <= gone < min(to_go, able) + 8


@pytest.mark.parametrize(("channels", "kept"), [(20, [16, 12, 8, 4]), (36, [32, 24, 16, 8])])
def test_counts_suit_the_kernels(channels: int, kept: list[int]) -> None:
    found = [spread([[0.0] * channels], [1.0], [4], to_go)[0] for to_go in range(1, channels - 3)]
    assert list(dict.fromkeys(found)) == kept
