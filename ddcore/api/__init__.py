"""All that an author reads: hooks, the values that pass through them, ``Plugin``, and what a run offers. ``ddcore`` itself lends their names."""
