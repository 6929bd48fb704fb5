"""Bundle and channel formats, the strict verifier, the trust policy and the floor."""
