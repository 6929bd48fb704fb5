"""The three example models: data, splits, training."""
