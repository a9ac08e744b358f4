"""Studies: conditions from one file, each run once with every seed, resumed, scored and recorded."""
