"""Pipelines that travel with their weights; installed as `hfdiff.pipelines`."""
