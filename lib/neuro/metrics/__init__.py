"""What is measured in responses."""
