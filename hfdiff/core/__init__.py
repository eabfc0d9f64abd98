"""What every part stands on: errors, files, configuration, seeds, threads; nothing of the project is imported."""
