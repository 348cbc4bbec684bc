"""Every path measured against its physical limit and against what people run, as ratios.

``python -m benchmarks``; docs/performance.md says how it measures and what it found.
"""
