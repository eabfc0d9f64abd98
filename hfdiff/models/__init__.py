"""Networks, what they are trained to predict, how they are sampled, and how they are loaded."""
