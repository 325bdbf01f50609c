"""How a run touches the world: settings, paths, files, processes, progress. It decides no number."""
