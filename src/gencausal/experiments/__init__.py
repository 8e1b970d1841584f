"""The experiments of the study: each function takes plain parameters and returns result rows or frames; notebooks call and show them."""
