"""State, optimiser, jitted steps, the one loop and the whole run; in: config, out: a trained workdir."""
