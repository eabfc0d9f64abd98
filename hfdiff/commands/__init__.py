"""The commands of `hfdiff`: one module each, with a dataclass of its flags and `main()`."""
