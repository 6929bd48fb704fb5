"""Which tf.distribute strategy a job trains under, and which of its processes this one is."""

import json
import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline.core.recipe import Distribution


@dataclass(frozen=True)
class Team:
    """``is_chief`` tells the one process that writes checkpoints, progress and exports."""

    strategy: Any
    is_chief: bool
    words: str  # for made_by; empty alone


def team_of(distribution: Distribution) -> Team:
    """Join the job's strategy; multi-worker reads ``TF_CONFIG`` and must come before anything else uses TensorFlow."""
    if distribution is Distribution.MIRRORED:
        strategy = tf.distribute.MirroredStrategy()
        return Team(strategy, True, f"mirrored over {strategy.num_replicas_in_sync} devices")
    if distribution is Distribution.MULTI_WORKER:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        return Team(strategy, index == 0, f"{strategy.num_replicas_in_sync} workers")
    return Team(tf.distribute.get_strategy(), True, "")
