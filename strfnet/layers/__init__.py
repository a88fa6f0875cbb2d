"""Layers for any network on clips: each file stands alone, with torch and einops only."""
