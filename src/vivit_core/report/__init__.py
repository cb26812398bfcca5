"""The report: one HTML page of sections."""
