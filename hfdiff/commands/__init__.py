"""The commands of `hfdiff`: flags.py says what each takes, and a module for each, with `main(flags)`, does it."""
