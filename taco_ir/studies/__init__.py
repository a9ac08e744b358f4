"""Studies: conditions from one file, run once with each seed, resumed, scored and recorded."""
