"""What control serves of evals, a file a subject."""
