"""equintk beside its peers, each in its own environment."""
