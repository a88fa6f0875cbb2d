"""What all other packages stand on: files, progress, signals, names, lazy imports."""
