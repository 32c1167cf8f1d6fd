"""One command per claim; results as JSON under `results/`, from which the README's tables are made."""
