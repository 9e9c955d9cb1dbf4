"""Side-by-side measurements with the peers; `make bench` runs them all."""
