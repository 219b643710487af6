"""Training of networks over streams of chunks."""
