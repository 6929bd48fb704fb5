"""Commands of the build side."""
