"""A pair in a world that is made up: production code on virtual time, with processes, disk and network that are not."""
