"""The tables of docs/performance.md and docs/gpu.md, one file each: what it measures, and how it is written."""
