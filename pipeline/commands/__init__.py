"""One file per command; dvc stages are commands."""
