#!/usr/bin/env python3
"""flows_cells.py VPTEST CAPTURE: `vptest flows` and `tcptrace -lnrW --csv` on one capture, cell by cell.

Rows are put in order of their two ends and first packet, so that the numbers of connections do not matter. Prints one
line, and the first ten cells that differ. Exit status 1 when any does.
"""
import itertools
import subprocess
import sys

IDENTITY = slice(1, 6)  # hosts, ports, first packet; before it the number


def rows(command):
    text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    return (cells[0], sorted(cells[1:], key=lambda row: row[IDENTITY])) if cells else ([], [])


vptest, capture = sys.argv[1:]
names, ours = rows([vptest, "flows", capture])
_, theirs = rows(["tcptrace", "-lnrW", "--csv", capture])
total, different = 0, []
for our, their in itertools.zip_longest(ours, theirs, fillvalue=[]):
    pairs = list(itertools.zip_longest(names[1:], our[1:], their[1:]))
    total += len(pairs)
    different += [(our or their, *pair) for pair in pairs if pair[1] != pair[2]]
print(f"{len(ours)} rows, tcptrace {len(theirs)}; {total} cells, {len(different)} differ")
for row, name, our, their in different[:10]:
    print(f"    {' '.join(row[IDENTITY])}: {name} is {our}, tcptrace has {their}")
sys.exit(bool(different))
