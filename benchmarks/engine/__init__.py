"""The modes of the engine benchmark (benchmarks/forecast_engine.py)."""
