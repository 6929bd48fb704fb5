"""Models that learn online: an update log kept by two members, and checkpoints of the state that its replay gives."""
