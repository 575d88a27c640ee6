"""What runs a network's forward pass: torch itself, or another runtime on the exported graph; checked, measured,
chosen."""
