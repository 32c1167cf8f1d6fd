"""The report of an evaluation as one page that needs nothing else."""
