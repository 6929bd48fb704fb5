"""Model bytes in, a session out: one Protocol, one file per engine."""
