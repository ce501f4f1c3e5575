"""Is a variant right? Inputs, the reference in float64, the rule, and the mutants that measure how good the rule is."""
from attention.testing.inputs import inputs, needles
from attention.testing.reference import Reference, check, gradients
from attention.testing.rule import FLOOR, K, Report

__all__ = ["FLOOR", "K", "Reference", "Report", "check", "gradients", "inputs", "needles"]
