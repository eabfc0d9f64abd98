"""How good samples are: a judge, CLIP, real images to hold against, metrics, reports and selection."""
