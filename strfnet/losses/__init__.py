"""What a network is trained by; torch only, so that any training loop can use it."""
