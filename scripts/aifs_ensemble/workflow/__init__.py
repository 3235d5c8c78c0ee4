"""Everything that knows Snakemake or a provider of machines."""
