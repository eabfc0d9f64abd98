"""From a run's files to others: records, redaction, the card, the folder, the Hub, a Space."""
