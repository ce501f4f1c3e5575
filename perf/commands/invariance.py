"""Tells which attention variants give the same bits whatever stands beside a row, and which have a race.

Without names it examines all variants that run on the device, forward and backward; docs/invariance.md says what each
check compares. `--out` keeps a record, `--table RECORD` prints the table of one.

Exit codes: 0 done; 1 a variant has a race: it differs from call to call, or reads what is still being written.
"""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from perf.commands.parser import Commands, command, whole_number
from perf.system.devices import HELP
from perf.system.exit_codes import FAILED, OK


def add(commands: Commands) -> None:
    parser = command(commands, "invariance", run, __doc__)
    parser.add_argument("variants", metavar="VARIANT", nargs="*", help="such as softmax:sdpa (default: all)")
    parser.add_argument("--device", help=HELP)
    parser.add_argument("--dtype", help="fp32, bf16 or fp16 (default: bf16 on a GPU, fp32 on a CPU)")
    parser.add_argument("--runs", type=whole_number, default=30, help="calls that are compared (default: 30)")
    parser.add_argument("--out", type=Path, help="file for the record, in JSON lines")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print the table of a record, and measure nothing")


def run(options: argparse.Namespace) -> int:
    """Raises ValueError, in one line, for an unknown variant, dtype or device, and for a file that is no record."""
    from perf.report.docs import difference, invariance_summary, invariance_table, load_invariance

    if options.table:
        print(invariance_table(load_invariance(options.table)[1]))
        return OK
    import attention
    from perf.bench.invariance import CHECKS, PHASES, Case, examine
    from perf.measure import machine
    from perf.system import files
    from perf.system.devices import device

    where = device(options.device)
    dtype = options.dtype or ("bf16" if where.type == "cuda" else "fp32")
    if dtype not in attention.DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(attention.DTYPES)}")
    registered = attention.names(device=where.type)
    if unknown := [name for name in options.variants if name not in registered]:
        raise ValueError(f"{unknown[0]}: no such variant on {where.type}; python -m perf variants lists them")
    case = Case(where, attention.DTYPES[dtype])
    findings = []
    for name in options.variants or registered:
        for phase in PHASES:
            finding = examine(name, phase, case, options.runs)
            findings.append(finding)
            words = finding.reason or ", ".join(f"{check} {difference(finding.differences[check])}" for check in CHECKS)
            print(f"{name} {phase}: {words}", flush=True)
    print(invariance_summary(findings))
    if options.out:
        shape = {"batch": case.batch, "heads": case.heads, "n": case.n, "head_dim": case.head_dim, "dtype": dtype}
        head = {"kind": "invariance", "device": str(where), "runs": options.runs, **shape,
                "revision": machine.revision(), "machine": machine.fingerprint()}
        files.write(options.out, "".join(json.dumps(row) + "\n" for row in (head, *map(asdict, findings))))
    races = [finding for finding in findings if finding.faults]
    for finding in races:
        print(f"RACE: {finding.variant} {finding.phase}: {', '.join(finding.faults)}")
    return FAILED if races else OK
