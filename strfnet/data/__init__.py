"""Tracklets: the record, where they are read from, how frames are chosen and decoded, and drawn walkers."""
