"""What trains, judges and draws to find something out: studies, and the settings of a model."""
