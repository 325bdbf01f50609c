"""One run, values in and values out: what a stage computes, without paths, tracker or clock."""
