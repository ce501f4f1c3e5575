"""Tells whether a variant is right: inputs, the reference in float64, the rule, and mutants, which measure the rule."""
from attention.testing.inputs import inputs, needles
from attention.testing.reference import Reference, check, gradients
from attention.testing.rule import FLOOR, K, Report

__all__ = ["FLOOR", "K", "Reference", "Report", "check", "gradients", "inputs", "needles"]
