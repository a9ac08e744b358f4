"""The foundation: values, files, settings and progress. Imports neither torch nor any other package of taco_ir."""
