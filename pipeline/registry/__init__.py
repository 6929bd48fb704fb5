"""The MLflow store, the pyfunc model, promotion."""
