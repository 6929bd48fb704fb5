"""The same search on a Ray cluster of two nodes, one of which goes away on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import answer

from pipeline.compress.candidates import make_candidates
from pipeline.compress.search.fanout import LocalBackend, open_backend
from pipeline.compress.search.pool import Effort
from pipeline.core.errors import Unreachable
from pipeline.core.recipe import load_recipe

Searchable = Callable[..., Path]


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield two
    finally:
        ray.shutdown()
        two.shutdown()


@pytest.mark.long
def test_a_node_removed_mid_search_changes_nothing_of_the_answer(searchable: Searchable, cluster: Any) -> None:
    folder = searchable()
    recipe = load_recipe("tiny")
    make_candidates(recipe, backend=LocalBackend(workers=1))
    alone = answer(folder)
    leaving = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    removed_at: list[int] = []

    def remove_a_node(effort: Effort) -> None:
        if effort.made == 12 and not removed_at:
            removed_at.append(effort.made)
            cluster.remove_node(leaving, allow_graceful=False)

    make_candidates(recipe, backend=open_backend("ray", cluster.address, None), watcher=remove_a_node)
    assert removed_at
    assert answer(folder) == alone
    assert leaving not in cluster.list_all_nodes()


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named() -> None:
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 "):
        open_backend("ray", "127.0.0.1:1", None)
