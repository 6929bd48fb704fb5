"""Keys, payloads, OMS signing, channel signing."""
