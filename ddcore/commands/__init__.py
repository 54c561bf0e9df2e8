"""Use cases without a screen: train, relabel, bench, reproduce, doctor."""
