"""Commands that run on a node with only the base install."""
