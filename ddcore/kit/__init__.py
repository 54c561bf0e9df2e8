"""For authors: the contract as named checks, templates, the composition matrix, the reference."""
