"""The commands: each is the function ``run`` of the module of its name, which calls public functions."""
