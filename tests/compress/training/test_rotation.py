"""Channels between linear layers: turned and turned back they are the same, and the first tell most."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.training.parting import parts_of
from pipeline.compress.training.products import turns_of
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


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 99))
def test_turned_products_sum_to_what_they_did(channels: int, seed: int) -> None:
    left, right, weights = _products(channels, seed)
    turns = turns_of(left.T @ left / 80, right.T @ right / 80, weights)
    sums = np.sum((left @ turns[0]) * (right @ turns[1]), axis=1)
    assert np.allclose(sums, np.sum(left * right * weights, axis=1), atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(1, 11), st.integers(0, 99))
def test_the_first_products_lose_no_more_than_any_others_could(channels: int, kept: int, seed: int) -> None:
    left, right, weights = _products(channels, seed)
    turns = turns_of(left.T @ left / 80, right.T @ right / 80, weights)
    every_pair = (left * weights) @ right.T
    lost = np.square(every_pair - (left @ turns[0])[:, :kept] @ (right @ turns[1])[:, :kept].T).sum()
    least = np.square(np.linalg.svd(every_pair, compute_uv=False)[kept:channels]).sum()  # Eckart and Young
    assert lost <= 1.05 * least + 1e-6 * np.square(every_pair).sum()


def _products(channels: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    left, right = (rng.normal(size=(80, channels)) @ rng.normal(size=(channels, channels)) for _ in range(2))
    return left, right, rng.normal(size=channels)


class _Table:
    def __init__(self, output_dim: int, mask_zero: bool = False, name: str = "table") -> None:
        self.output_dim, self.mask_zero, self.name = output_dim, mask_zero, name

    def get_config(self) -> dict[str, object]:
        return {"output_dim": self.output_dim, "mask_zero": self.mask_zero, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, object]) -> "_Table":
        return cls(**config)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "widths"), [(39, None), (40, [8, 32]), (64, [32, 32]), (200, [8, 192])])
def test_the_weak_part_of_a_table_fills_blocks(width: int, widths: list[int] | None) -> None:
    parts = parts_of(SimpleNamespace(layers=SimpleNamespace(Concatenate=lambda name: name)), _Table(width))
    assert (parts and [table.output_dim for table in parts.tables]) == widths


def test_a_table_that_marks_missing_ids_stays_whole() -> None:
    assert parts_of(None, _Table(64, mask_zero=True)) is None


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
