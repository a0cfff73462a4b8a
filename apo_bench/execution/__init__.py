"""Work becomes records: isolated processes."""
