"""The history holds what asv stores of every commit, under the same names whoever measured it."""
