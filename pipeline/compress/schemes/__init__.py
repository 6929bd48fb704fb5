"""Number formats of both file formats: what can be stored how, ranges, real files, and what they really hold."""
