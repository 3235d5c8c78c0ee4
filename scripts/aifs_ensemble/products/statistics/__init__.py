"""Mean, spread, probabilities and quantiles over the members, lead by lead."""
