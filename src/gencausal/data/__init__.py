"""Data with their truth: verified files (`registry`), ACIC 2016, IHDP and the 1-D synthetic design."""
