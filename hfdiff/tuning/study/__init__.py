"""Studies: many trainings under one budget, judged at one n, and what they decide."""
