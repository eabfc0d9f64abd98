"""What trains, judges and draws to find something out: studies."""
