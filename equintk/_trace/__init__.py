"""What a model does with each of its parameters, read from its jaxpr."""
