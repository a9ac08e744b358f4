"""What everything else is made of: values, files, settings, progress; no torch, no model, no collection."""
