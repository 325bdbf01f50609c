"""MLflow, which mirrors what stages do, and where a run comes from; the only import of mlflow."""
