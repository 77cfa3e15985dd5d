"""Metrics and comparisons of trained models: Table 4, retrieval, judges, probes, ablation, importance."""
