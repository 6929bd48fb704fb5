"""Arrays: splits mapped from files, checked, handed out in batches."""
