"""Training: what a run is, its state, its steps, and its folder."""
