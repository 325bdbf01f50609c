"""How a run touches the world: parameters, paths, files, progress, the tracker."""
