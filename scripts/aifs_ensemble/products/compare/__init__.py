"""Two models of one cycle side by side."""
