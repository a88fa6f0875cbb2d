"""A training run: what it is, its steps, and how it goes on after a stop; the only room that knows accelerate."""
