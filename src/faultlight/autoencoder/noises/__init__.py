"""Ways to tamper with images, one file each; a new one is a new file, found by its name."""
