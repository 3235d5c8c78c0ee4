"""From scratch to the destination, verified: what is there, what is asked for, and why they differ."""
