"""Faults injected into every command that writes: kills, failing writes, damaged files.

python -m tests.faults [--faults=300] [--seed=0] [--only=kill,write,damage,configs] [--out=FILE]
    [--only-fault=ID] [--lanes=2]

Each fault is tried in a workdir of its own; then the same command is given again, without it. It
is survived if all ends as a run that was never disturbed, to the bit, or if damage is refused in
one line that names the file. What is lost is printed with how to repeat it.
"""
