"""Schedule, masks, clusters and order of rows: plain arrays, no TensorFlow."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.compress.training.clusters import assign, centroids, distinct_count
from pipeline.compress.training.feeding import shuffled
from pipeline.compress.training.masks import block_mask, magnitude_mask, two_of_four_mask
from pipeline.compress.training.promise import require_clusters, require_zeros
from pipeline.compress.training.schedule import (
    at_once,
    batch_bounds,
    ramp_to,
    seconds_left,
    shard_bounds,
    steps_an_epoch,
)
from pipeline.core.errors import VariantRefused
from pipeline.core.names import Variant

SHARES = st.sampled_from([0.1, 0.5, 0.75, 0.95])
KERNELS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4).map(lambda n: 4 * n), st.integers(1, 5)),
    elements=st.floats(-4, 4, width=32),
)
VALUES = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-9, 9, width=32))


@settings(max_examples=40)
@given(st.integers(1, 1000), SHARES)
def test_the_ramp_starts_at_half_never_falls_and_ends_on_a_renewal_with_the_final_sparsity(steps, final):
    ramp = ramp_to(final, steps)
    shares = [ramp.sparsity_at(step) for step in range(steps)]
    assert shares == sorted(shares)
    assert 0 <= ramp.end < steps
    assert ramp.renews_at(ramp.end)
    assert ramp.sparsity_at(ramp.end) == final
    assert ramp.sparsity_at(steps) == final
    if ramp.end:
        assert ramp.sparsity_at(0) == pytest.approx(final / 2)
    assert not ramp.renews_at(ramp.end + ramp.frequency)


def test_a_long_ramp_renews_its_masks_some_twenty_times_in_the_first_six_tenths():
    ramp = ramp_to(0.8, 1000)
    renewals = [step for step in range(1000) if ramp.renews_at(step)]
    assert (len(renewals), renewals[0], renewals[-1]) == (21, 0, 600)


def test_a_fixed_pattern_has_its_sparsity_at_once():
    assert at_once(0.5, 100).sparsity_at(0) == 0.5


@given(st.integers(1, 400), st.integers(1, 100), st.integers(1, 4))
def test_batches_cover_every_row_but_a_rest_too_small_to_share(rows, batch_size, replicas):
    steps = steps_an_epoch(rows, batch_size, replicas)
    bounds = [batch_bounds(rows, batch_size, step) for step in range(steps)]
    assert bounds[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    left = rows - bounds[-1][1]
    assert 0 <= left < replicas
    for start, stop in bounds:
        parts = [shard_bounds(stop - start, replicas, index) for index in range(replicas)]
        assert [part[0] for part in parts[1:]] == [part[1] for part in parts[:-1]]
        assert (parts[0][0], parts[-1][1]) == (0, stop - start)
        assert max(b - a for a, b in parts) - min(b - a for a, b in parts) <= 1


def test_time_left_follows_the_pace_so_far():
    assert seconds_left(10.0, 20, 100) == pytest.approx(40.0)
    assert seconds_left(10.0, 0, 100) == math.inf


@given(KERNELS, SHARES)
def test_magnitude_masks_keep_an_exact_number_of_the_largest(kernel, share):
    mask = magnitude_mask(kernel, share)
    assert mask.sum() == max(1, round(kernel.size * (1 - share)))
    if not mask.all():
        assert np.abs(kernel[mask]).min() >= np.abs(kernel[~mask]).max()


@settings(max_examples=40)
@given(KERNELS)
def test_two_of_four_keeps_the_two_largest_of_each_four_inputs(kernel):
    mask = two_of_four_mask(kernel)
    for place in np.ndindex(kernel.shape[0], kernel.shape[1] // 4, kernel.shape[2]):
        rows = slice(4 * place[1], 4 * place[1] + 4)
        kept, group = mask[place[0], rows, place[2]], np.abs(kernel[place[0], rows, place[2]])
        assert kept.sum() == 2
        assert group[kept].min() >= group[~kept].max()


@given(KERNELS, SHARES)
def test_block_masks_take_away_four_inputs_of_one_output_together(kernel, share):
    mask = block_mask(kernel, share)
    blocks = mask.reshape(kernel.shape[0], -1, 4, kernel.shape[2])
    assert (blocks.all(axis=2) | ~blocks.any(axis=2)).all()
    assert blocks.any(axis=2).sum() == max(1, round(kernel.size / 4 * (1 - share)))


def test_groups_of_four_need_inputs_in_fours():
    with pytest.raises(ValueError, match="6 inputs"):
        two_of_four_mask(np.ones((6, 2), np.float32))


@given(VALUES, st.integers(2, 16))
def test_centroids_are_few_ascending_and_within_the_values(values, count):
    found = centroids(values, count)
    assert 1 <= len(found) <= count
    assert (np.diff(found) >= 0).all()
    assert found[0] >= values.min()
    assert found[-1] <= values.max()
    if len(np.unique(values)) <= count:
        assert set(found) == set(np.unique(values).astype(np.float64))


@given(VALUES, st.integers(2, 8))
def test_every_weight_goes_to_its_nearest_centroid(values, count):
    found, middle = assign(values, count, keep_zeros=False), centroids(values, count)
    distances = np.abs(values[:, None].astype(np.float64) - middle)
    np.testing.assert_allclose(distances[np.arange(len(values)), found], distances.min(axis=1), atol=1e-9)


@given(KERNELS, st.integers(2, 8), SHARES)
def test_kept_zeros_have_a_cluster_of_their_own_that_counts(kernel, count, share):
    pruned = np.where(magnitude_mask(kernel, share), kernel, 0)
    found = assign(pruned, count, keep_zeros=True)
    assert found.min() >= 0
    assert found.max() < count
    if (pruned == 0).any():
        assert ((found == 0) == (pruned == 0)).all()


def test_clusters_of_normal_weights_lie_closer_than_equal_steps():
    weights = np.random.default_rng(0).normal(size=5000)
    middle, even = centroids(weights, 16), np.linspace(weights.min(), weights.max(), 16)
    error = [np.mean(np.abs(weights[:, None] - these).min(axis=1) ** 2) for these in (middle, even)]
    assert error[0] < 0.5 * error[1]


def test_the_order_of_rows_depends_on_seed_phase_and_epoch_alone():
    orders = {key: tuple(shuffled(50, *key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(orders.values())) == 4
    assert tuple(shuffled(50, 0, 0, 1)) == orders[0, 0, 1]
    assert sorted(orders[0, 0, 0]) == list(range(50))


def test_broken_promises_are_refused_in_one_sentence():
    dense, sparse = np.ones((4, 4), np.float32), np.eye(4, dtype=np.float32)
    require_zeros("p75", [sparse], Variant.parse("p75"), 0.75)
    with pytest.raises(VariantRefused, match=r"^p75 holds 37\.5% zeros .* where 75% are asked.*epochs"):
        require_zeros("p75", [sparse, dense], Variant.parse("p75"), 0.75)
    three = np.array([[1], [1], [1], [0], [0], [0], [0], [1]], np.float32)
    with pytest.raises(VariantRefused, match="more than two weights in a group of four"):
        require_zeros("p24", [three], Variant.parse("p24"), 0.5)
    require_clusters("c4", {"dense kernel": np.arange(4.0)}, 4)
    with pytest.raises(VariantRefused, match="c4 holds 5 distinct values in dense kernel where at most 4"):
        require_clusters("c4", {"dense kernel": np.arange(5.0)}, 4)
    assert distinct_count(np.array([0.0, -0.0, 1.0])) == 2
