"""Many runs: the points of a grid, the devices they run on, and what is kept of them."""
