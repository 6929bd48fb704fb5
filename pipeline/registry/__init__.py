"""Runs, versions and aliases in MLflow; promotion rules, pure. Nothing here signs: the commands do."""
