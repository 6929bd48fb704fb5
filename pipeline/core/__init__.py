"""Nouns, errors, recipe schema, canonical bytes and digests, tensors, clock and files: imports nothing above itself."""
