"""Training of the examples: its own process (``python -m pipeline.examples.training JOB.json``), imported by nobody."""
