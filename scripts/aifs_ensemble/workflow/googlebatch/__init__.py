"""Jobs of the workflow on Google Batch."""
