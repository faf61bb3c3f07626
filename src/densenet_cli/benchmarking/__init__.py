"""Benchmark a model on this machine: start-up time, latency, throughput, and memory."""

from densenet_cli.benchmarking.report import BenchmarkReport
from densenet_cli.benchmarking.runner import BenchmarkPlan, run_benchmark

__all__ = ["BenchmarkPlan", "BenchmarkReport", "run_benchmark"]
