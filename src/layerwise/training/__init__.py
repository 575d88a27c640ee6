"""Training: the loop (a generator) and the session around it."""
