"""What all other packages stand on: files, progress, signals, names, modes, lazy imports, private names of torch."""
