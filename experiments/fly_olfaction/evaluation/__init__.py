"""What `evaluate.py` measures in a trained network, and the report it makes of that."""
